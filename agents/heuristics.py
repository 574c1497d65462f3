"""Controllers that learn nothing and decide where a policy decides: constants, plateaus, chance.

Those whose learning rate changes at every inner step: `trainpilot.agents.schedules`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trainpilot.agents.controller import Decision, View
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters
from trainpilot.envs.optimizers import optimizer_index
from trainpilot.inner_tasks.errors import require

#: The default `eps` of torch's `ReduceLROnPlateau`.
_SMALLEST_FALL = 1e-8


@dataclass
class Constant:
    """One optimizer with one learning rate, which other heuristics multiply.

    Args:
        optimizer: its name.
        learning_rate: as `torch.optim` would be given it, > 0.
        weight_decay: decoupled, >= 0 (default: 0).
        momentum: SGD's momentum and Adam's beta1, in [0, 1) (default: 0.9).
        ema_decay: of the average of the weights that evaluations see, in [0, 1) (default: 0,
            none).

    Raises:
        TrainpilotError: if the optimizer is unknown or a number is out of range.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check every range."""
        optimizer_index(self.optimizer)
        rate, decay, momentum = self.learning_rate, self.weight_decay, self.momentum
        require(rate > 0, "a controller's learning_rate must be above 0", rate)
        require(decay >= 0, "a controller's weight_decay must be at least 0", decay)
        require(0 <= momentum < 1, "a controller's momentum must lie in [0, 1)", momentum)
        ema = self.ema_decay
        require(0 <= ema < 1, "a controller's ema_decay must lie in [0, 1)", ema)

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        self._fixed = Hyperparameters.full(
            n_runs,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            ema_decay=self.ema_decay,
        )

    def decide(self, view: View) -> Decision:
        """The constants, the learning rate times this decision's factor and the guard's."""
        rate = self._fixed.learning_rate * self._multiplier(view) * view.guard_scale
        return Decision(replace(self._fixed, learning_rate=rate))

    def _multiplier(self, view: View) -> float | FloatArray:
        """What the learning rate is multiplied by, for all runs or for each."""
        return 1.0


@dataclass
class ReduceOnPlateau(Constant):
    """The learning rate falls when the valid loss has stopped falling.

    As `torch.optim.lr_scheduler.ReduceLROnPlateau` in mode "min" with a relative threshold,
    counting decisions for epochs; like there, what would lower the rate by 1e-8 or less is left.

    Args:
        factor: at each reduction, in (0, 1) (default: 0.1).
        patience: decisions without improvement before a reduction, >= 0 (default: 3).
        threshold: relative improvement that counts, >= 0 (default: 1e-4). The other arguments
            are those of `Constant`.
    """

    factor: float = 0.1
    patience: int = 3
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        require(0 < self.factor < 1, "a controller's factor must lie in (0, 1)", self.factor)
        require(self.patience >= 0, "a controller's patience must be at least 0", self.patience)
        require(self.threshold >= 0, "a controller's threshold must be at least 0", self.threshold)

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        super().begin(n_runs, actions, seed)
        self._best = np.full(n_runs, np.inf)
        self._waited = np.zeros(n_runs, dtype=np.int64)
        self._reduced = np.ones(n_runs)

    def _multiplier(self, view: View) -> FloatArray:
        if view.decision == 0:  # the untrained model is no epoch
            return self._reduced
        better = view.valid_loss < self._best * (1 - self.threshold)
        self._best = np.where(better, view.valid_loss, self._best)
        self._waited = np.where(better, 0, self._waited + 1)
        exhausted = self._waited > self.patience
        self._waited = np.where(exhausted, 0, self._waited)
        fall = self.learning_rate * self._reduced * (1 - self.factor)
        reduces = exhausted & (fall > _SMALLEST_FALL)
        self._reduced = np.where(reduces, self._reduced * self.factor, self._reduced)
        return self._reduced


class RandomPolicy:
    """Every head's choice at random, each as likely: what an untrained policy does."""

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        self._actions = actions
        self._generator = np.random.default_rng(seed)

    def decide(self, view: View) -> Decision:
        """A random action for each run."""
        action = self._actions.draw(self._generator, view.hyperparameters.n_runs)
        return Decision(self._actions.apply(view.hyperparameters, action, view.stage))
