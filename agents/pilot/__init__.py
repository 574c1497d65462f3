"""The pilot: a controller in anybody's training loop."""
