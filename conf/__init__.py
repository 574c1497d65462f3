"""Hydra configuration of the commands: `pkg://trainpilot.conf`."""
