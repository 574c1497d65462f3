"""Who decides: the learned policy, heuristics, and the commands."""
