"""Training as an environment: engine, optimizers, signals, observation, actions, rewards, guard."""
