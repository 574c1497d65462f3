"""Attaches a controller to the training of a model."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from trainpilot.agents.controller import Controller
from trainpilot.agents.pilot.arguments import (
    require_counts,
    require_functions,
    require_kind,
    require_numbers,
    require_seed,
    require_within,
)
from trainpilot.agents.pilot.clock import Clock
from trainpilot.agents.pilot.fallback import WithFallback
from trainpilot.agents.pilot.groups import (
    greatest_multiplier,
    parameter_groups,
    with_what_is_common,
)
from trainpilot.agents.pilot.optimizer import PilotOptimizer
from trainpilot.agents.pilot.training_run import TrainingRun
from trainpilot.agents.policy import PolicyController
from trainpilot.agents.policy_file import load_policy
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.limits import BoundsConfig, GuardConfig, validate_bounds, validate_guard
from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.inner_tasks.errors import require

#: Beyond 99.8 % of the distances of the policy that ships on `meta_train` and `meta_valid` from
#: rates of 1e-5 to 1e-1, close to the median, 2.05, of those from a momentum, a weight decay and a
#: clip that it was never trained with.
FARTHEST = 2.0

_SNAPSHOTS = ("beside", "cpu")


class Pilot:
    """A learned policy, or any other controller, for training loops.

    Args:
        controller: decides.
        farthest: distance from what a policy was trained on beyond which a straight line to 0
            decides on the learning rate in its place; None for never (default: 2).
    """

    def __init__(self, controller: Controller, farthest: float | None = FARTHEST) -> None:
        require(
            isinstance(controller, Controller),
            "a pilot needs a controller (Pilot.load takes the name or the path of a policy)",
            repr(controller),
        )
        require_numbers(farthest=0.0 if farthest is None else farthest)
        self._controller = controller
        self._rhythm = (30, 10)
        self._policy = controller if isinstance(controller, PolicyController) else None
        if self._policy is not None:
            self._rhythm = self._policy.rhythm
            if farthest is not None:
                self._controller = WithFallback(self._policy, farthest)

    @classmethod
    def load(cls, policy: str | Path = "default", farthest: float | None = FARTHEST) -> Self:
        """A pilot with a learned policy.

        Args:
            policy: "default" or "rate_only" for those that ship, or the path of a
                `policy.safetensors`.
            farthest: as the class has it.

        Raises:
            TrainpilotError: if the file is missing, cut short, not a policy, or made for another
                observation schema.
        """
        return cls(load_policy(policy), farthest)

    def attach(
        self,
        model: nn.Module,
        total_steps: int | None = None,
        *,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | None = None,
        lr: float = 1e-3,
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        gradient_clip: float = math.inf,
        batch_size: int = 1,
        ema_decay: float = 0.0,
        validate: Callable[[], float | tuple[float, float]] | None = None,
        on_decision: Callable[[dict[str, Any]], None] | None = None,
        decisions: int | None = None,
        measured_steps: int | None = None,
        decide_every: int = 100,
        bounds: BoundsConfig | None = None,
        guard: GuardConfig | None = None,
        snapshot: str | None = "beside",
        foreach: bool | None = None,
        fused: bool | None = None,
        seed: int = 0,
    ) -> PilotOptimizer:
        """An optimizer for a model, whose hyperparameters this pilot sets.

        Args:
            model: to train; its buffers are rolled back together with its parameters.
            total_steps: calls of `step` in the whole training (default: not known; the policy
                then decides every `decide_every` steps and does not know its horizon).
            params: parameters, or groups of them with learning rates and weight decays of their
                own, whose ratios are kept, and momenta, which stay. What all of them have alike
                is what the run begins with (default: all of the model; frozen ones are trained
                from when they require gradients).
            lr: learning rate to begin with, > 0.
            optimizer: to begin with.
            weight_decay: decoupled, to begin with, >= 0.
            momentum: SGD's momentum and Adam's beta1, to begin with, in [0, 1).
            gradient_clip: largest norm of the gradient, to begin with, > 0; infinite for none.
            batch_size: batches whose mean gradient makes an update, to begin with, at least 1.
            ema_decay: share of the earlier average in the moving average of the weights that
                each decision ends with and `PilotOptimizer.averaged` shows, to begin with, in
                [0, 1); 0 for none.
            validate: gives the loss, or loss and accuracy, on a validation set; called at every
                decision and after the last step, without gradients. `observe` tells the same when
                it suits you. If it fails, the next step makes up for it.
            on_decision: called with the record of a decision once it is known what came of it, for
                loggers; `decisions.parquet` has the same fields.
            decisions: in the whole training, at least 1 (default: what the policy was trained
                for; 30 for another controller).
            measured_steps: of those between two decisions, at least 1 (default: likewise, 10).
            decide_every: steps between two decisions where `total_steps` is not known.
            bounds: hard ranges of the hyperparameters, in which the run begins; no group's
                learning rate exceeds the highest (default: those of `BoundsConfig`, with a
                `batch_size` of up to the one to begin with).
            guard: when a training has gone wrong (default: that of `GuardConfig`).
            snapshot: where the copy lies that a training is rolled back to: "beside" the model,
                on the "cpu", or None for no copy; then what diverges ends.
            foreach: as torch's optimizers have it.
            fused: likewise, for those of them that have it; not both.
            seed: for a controller that draws at random.

        Raises:
            TrainpilotError: if there is nothing to train, or an argument is out of range.
        """
        require_kind(nn.Module, "a model", model=model)
        require_kind(BoundsConfig | None, "a BoundsConfig", bounds=bounds)
        require_kind(GuardConfig | None, "a GuardConfig", guard=guard)
        require_functions(validate=validate, on_decision=on_decision)
        require_counts(
            total_steps=total_steps,
            batch_size=batch_size,
            decisions=decisions,
            measured_steps=measured_steps,
            decide_every=decide_every,
        )
        require_numbers(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
        )
        require_seed(seed)
        # Nothing relates to a rate of 0.
        require(lr > 0, "lr must be above 0", lr)
        require(not (foreach and fused), "foreach and fused must not both be True", "both")
        require(
            snapshot is None or snapshot in _SNAPSHOTS,
            "snapshot must be 'beside', 'cpu' or None",
            snapshot,
        )
        bounds = BoundsConfig(batch_size_high=int(batch_size)) if bounds is None else bounds
        guard = GuardConfig() if guard is None else guard
        if snapshot is None:
            guard = dataclasses.replace(guard, on_divergence="end")
        validate_bounds(bounds, "bounds")
        validate_guard(guard, "guard")
        start = Hyperparameters.full(
            1,
            learning_rate=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            gradient_clip=gradient_clip,
            batch_size=batch_size,
            ema_decay=ema_decay,
            optimizer=optimizer,
        )
        groups = parameter_groups(model, params, start)
        start = with_what_is_common(groups, start)
        require_within(start, bounds, greatest_multiplier(groups))
        # Plain numbers: whoever loads a checkpoint may refuse any others.
        clock = Clock(
            None if total_steps is None else int(total_steps),
            self._rhythm[0] if decisions is None else int(decisions),
            self._rhythm[1] if measured_steps is None else int(measured_steps),
            int(decide_every),
        )
        own_name = OPTIMIZER_NAMES[start.optimizer[0]]
        # A controller remembers the run that it decides on: each has one of its own.
        controller = copy.deepcopy(self._controller)
        run = TrainingRun(controller, start, clock, bounds, guard, seed)
        return PilotOptimizer(
            model,
            groups,
            run,
            clock,
            warm=[] if self._policy is None else self._policy.warm_optimizers(own_name),
            validate=validate,
            on_decision=on_decision,
            snapshot=snapshot if guard.on_divergence == "roll_back" else None,
            foreach=foreach,
            fused=fused,
        )
