"""The comparison of controllers, other optimizers and tuners: who takes part, what is measured."""
