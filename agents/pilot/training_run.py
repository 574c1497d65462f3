"""A run of real training as a controller sees it: what `InnerRuns` is for runs of the engine."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trainpilot.agents.controller import Controller, Explanation, View
from trainpilot.agents.pilot.clock import Clock
from trainpilot.agents.records import Made
from trainpilot.envs.actions import ActionSpec, clamp, relative_learning_rate
from trainpilot.envs.bounding import bound
from trainpilot.envs.config import ActionConfig
from trainpilot.envs.guard import Guard
from trainpilot.envs.hyperparameters import HYPERPARAMETER_NAMES, FloatArray, Hyperparameters
from trainpilot.envs.interventions import LIMITS, Interventions, Reason
from trainpilot.envs.limits import BoundsConfig, GuardConfig
from trainpilot.envs.observation import Observation, Reading
from trainpilot.envs.observer import Observer
from trainpilot.envs.signals import StepSums, make_signals

_ONE = np.ones(1, dtype=bool)


class Valid(NamedTuple):
    """What is known of a validation set; NaN where nothing is.

    Attributes:
        loss: mean over it.
        accuracy: in [0, 1].
    """

    loss: float = float("nan")
    accuracy: float = float("nan")


class Measured(NamedTuple):
    """The measured steps between two decisions.

    Attributes:
        sums: as `Probe.read` gives them, `(9, n_steps)`.
        updated: whether the step made an update, `(n_steps,)`.
        mean_correction: Adam's bias correction after it, `(n_steps,)`.
        first: as a column of `sums`, of the very first step, where that is none of them and
            somebody wants to know; else None.
    """

    sums: np.ndarray
    updated: np.ndarray
    mean_correction: FloatArray
    first: np.ndarray | None = None


class Judgement(NamedTuple):
    """What the guard says of the steps since the last decision.

    Attributes:
        rolled_back: the training is to go back to where all was well.
        ended: something is wrong, and it may not be rolled back (any more).
        sound: where it stands now, it may be led back to.
        text: what was done and why; None where all is well.
        limit: name and value of the setting that was exceeded; None where it is no matter of one.
    """

    rolled_back: bool
    ended: bool
    sound: bool
    text: str | None
    limit: str | None


class TrainingRun:
    """Observes, guards and asks a controller, for one run.

    Args:
        controller: decides.
        start: hyperparameters to begin with, `(1,)` each.
        clock: says when.
        bounds: hard ranges of the hyperparameters.
        guard: when something has gone wrong.
        seed: for what the controller draws at random.

    Attributes:
        bounds: as given.
        hyperparameters: in use, `(1,)` each.
        factors: of the learning rate in each measured stretch since the last decision; None
            for 1 throughout.
        decision: number of the next decision, from 0.
        valid: the latest that is known of a validation set.
        records: of every decision so far, as `decisions.parquet` has them; what came of the last
            one is None until the next. After the run's length, of every interval.
    """

    def __init__(
        self,
        controller: Controller,
        start: Hyperparameters,
        clock: Clock,
        bounds: BoundsConfig,
        guard: GuardConfig,
        seed: int,
    ) -> None:
        self._controller = controller
        self._clock = clock
        self.bounds = bounds
        #: The lowest rate that somebody else has set, where that was below the bound.
        self._lowest_taken = float("inf")
        self._guard_config = guard
        self._seed = seed
        self._guard = Guard(guard, 1)
        self._observer = Observer()
        self.hyperparameters = self._start = start
        self.factors: FloatArray | None = None
        self.decision = 0
        self.valid = Valid()
        self._good_valid = Valid()
        self._train_loss = float("nan")
        self.records: list[dict[str, Any]] = []
        self._losses_seen: list[float] = []

    @property
    def attached(self) -> dict[str, Any]:
        """What a training should go on with as it began, by name, as plain data."""
        kind = type(self._controller)
        own = getattr(self._controller, "fingerprint", lambda: f"{kind.__module__}.{kind.__name__}")
        return {
            "controller": own(),
            "bounds": plain_numbers(asdict(self.bounds)),
            "guard": plain_numbers(asdict(self._guard_config)),
        }

    def begin(self) -> None:
        """Look at the run before its first step."""
        self._controller.begin(1, ActionSpec(ActionConfig()), self._seed)
        if np.isinf(self.valid.loss):
            # Nothing has gone wrong yet: it is not known, and nothing to go back to.
            self.valid = Valid()
        self._guard.reset(_ONE, np.array([self.valid.loss]))
        self._good_valid = self.valid
        # Whatever a scheduler begins with: changes are seen beside the rate that was asked for.
        self._observer.begin(self._reading()._replace(hyperparameters=self._start))

    def decide(self) -> None:
        """Ask the controller."""
        # Plateaus are found on what there is.
        loss = self._train_loss if np.isnan(self.valid.loss) else self.valid.loss
        view = self._view(
            self.decision, self._observer.observation, self.hyperparameters, loss, self._guard_scale
        )
        decided = self._controller.decide(view)
        used, rates, clamped = bound(
            decided.hyperparameters, decided.learning_rate_factors, view.micro_batches, self._limits
        )
        self.factors = None if rates is None else rates[0] / used.learning_rate
        self._record(used, decided.explanation, clamped)
        # Only now: a controller that fails is asked again.
        self._losses_seen.append(loss)
        self.hyperparameters = used

    def _record(
        self, used: Hyperparameters, explanation: Explanation | None, clamped: NDArray[np.bool_]
    ) -> None:
        made = Made(
            step=self._clock.interval(self.decision).first,
            observation=self._observer.observation,
            explanation=explanation,
            before=self.hyperparameters,
            hyperparameters=used,
            clamped=clamped,
            guard_scale=self._guard_scale,
        )
        self.records.append({"decision": self.decision, **made.record(0), **_NOTHING_YET})

    def _view(
        self,
        decision: int,
        observation: Observation,
        hyperparameters: Hyperparameters,
        loss: float,
        guard_scale: FloatArray,
    ) -> View:
        return View(
            observation,
            hyperparameters,
            np.array([loss]),
            decision,
            self._clock.decisions,
            guard_scale,
            len(self._clock.interval(decision).measured),
        )

    def take(self, **values: float) -> None:
        """Somebody else has set hyperparameters: the next decision starts from them."""
        self.hyperparameters = replace(
            self.hyperparameters, **{name: np.array([value]) for name, value in values.items()}
        )
        # A rate that was set below the bound is not lifted to it: a warm-up would go on from there.
        rate = float(relative_learning_rate(self.hyperparameters)[0])
        self._lowest_taken = min(self._lowest_taken, rate)

    @property
    def _limits(self) -> BoundsConfig:
        lowest = min(self.bounds.learning_rate_low, self._lowest_taken)
        return replace(self.bounds, learning_rate_low=lowest)

    @property
    def wants_first(self) -> bool:
        """Whether the first step since the last decision is to be looked at in any case."""
        return bool(self._guard.wants_first[0])

    def judge(self, measured: Measured) -> Judgement:
        """Look at the steps since the last decision, and let the guard judge them.

        Args:
            measured: of these steps.
        """
        if len(self.records) == self.decision:
            # The run has passed its length, and nobody was asked.
            self._record(self.hyperparameters, None, ~_ONE)
        *sums, mean_before = measured.sums[:, None]
        train = StepSums(*sums)
        signals = make_signals(
            train, mean_before, measured.mean_correction[None], measured.updated[None]
        )
        if np.isfinite(self.valid.loss):
            self._guard.start_valid(np.array([self.valid.loss]))
        # A loss that nobody knows is no reason.
        loss = np.array([0.0 if np.isnan(self.valid.loss) else self.valid.loss])
        first = None
        if measured.first is not None:
            sums_first = StepSums(*measured.first[: len(StepSums._fields)])
            norms = np.sqrt([sums_first.gradient_square, sums_first.parameter_square])
            first = np.array([[sums_first.train_loss], *norms[:, None]])
        found = self._guard.judge(signals, loss, np.zeros(1), first)
        rolled_back = self._guard.roll_back(found.any)
        decided_rate = self.hyperparameters.learning_rate
        if rolled_back.any():
            lowered = replace(
                self.hyperparameters, learning_rate=decided_rate * self._guard_config.shrink
            )
            self.hyperparameters = clamp(lowered, self._limits)
            self.valid = self._good_valid
        elif found.sound.all():
            self._good_valid = self.valid
        self.decision += 1
        self._train_loss = float(signals.train_loss.mean())
        self._observer.observe(signals, self._reading(), rolled_back, found.sound)
        done = Interventions(
            found.reason, found.ratio, rolled_back, self.hyperparameters.learning_rate
        )
        (text,) = done.texts(decided_rate)
        field = LIMITS.get(Reason(int(found.reason[0])))
        limit = None if field is None else f"{field}, {getattr(self._guard_config, field):g}"
        self.records[-1] |= {
            "train_loss": self._train_loss,
            "valid_loss": None if np.isnan(self.valid.loss) else self.valid.loss,
            "intervention": text,
        }
        return Judgement(
            bool(rolled_back.any()),
            bool((found.any & ~rolled_back).any()),
            bool(found.sound.all()),
            text,
            limit,
        )

    @property
    def _guard_scale(self) -> FloatArray:
        return np.asarray(self._guard_config.shrink**self._guard.roll_backs, dtype=np.float64)

    def _reading(self) -> Reading:
        loss, accuracy = self.valid
        return Reading(
            hyperparameters=self.hyperparameters,
            age=np.array([float(self._clock.age(self.decision))]),
            progress=np.array([self._clock.progress(self.decision)]),
            valid_loss=np.array([loss]),
            valid_accuracy=np.array([accuracy]),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that later decisions depend on but the controller's own memory."""
        return {
            "decision": self.decision,
            "hyperparameters": self.hyperparameters.row(0),
            "factors": None if self.factors is None else torch.from_numpy(self.factors.copy()),
            "lowest_taken": self._lowest_taken,
            "valid": list(self.valid),
            "good_valid": list(self._good_valid),
            "train_loss": self._train_loss,
            "observer": self._observer.state_dict(),
            "guard": self._guard.state_dict(),
            "losses_seen": list(self._losses_seen),
            "records": [dict(record) for record in self.records],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._losses_seen = list(state["losses_seen"])
        self._remember(state["records"], self._losses_seen)
        self.decision = state["decision"]
        self.hyperparameters = Hyperparameters.full(1, **state["hyperparameters"])
        self.factors = None if state["factors"] is None else state["factors"].cpu().numpy().copy()
        self._lowest_taken = state["lowest_taken"]
        self.valid, self._good_valid = Valid(*state["valid"]), Valid(*state["good_valid"])
        self._train_loss = state["train_loss"]
        self._observer.load_state_dict(state["observer"])
        self._guard.load_state_dict(state["guard"])
        self.records = [dict(record) for record in state["records"]]

    def _remember(self, records: list[dict[str, Any]], losses: list[float]) -> None:
        """Show the controller again what it has seen: its memory is made of nothing else."""
        self._controller.begin(1, ActionSpec(ActionConfig()), self._seed)
        for record, loss in zip(records[: len(losses)], losses, strict=True):
            before = {name: record[f"{name}_before"] for name in HYPERPARAMETER_NAMES}
            self._controller.decide(
                self._view(
                    record["decision"],
                    np.array([record["observation"]], dtype=np.float32),
                    Hyperparameters.full(1, **before),
                    loss,
                    np.array([record["guard_scale"]]),
                )
            )


def plain_numbers(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without numbers of numpy, which a checkpoint may not hold."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in settings.items()
    }


_NOTHING_YET = {"train_loss": None, "valid_loss": None, "intervention": None}
