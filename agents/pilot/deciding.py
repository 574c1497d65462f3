"""An optimizer that decides, from time to time, how it goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from trainpilot.agents.pilot.averaging import ModelAverage
from trainpilot.agents.pilot.clock import Clock
from trainpilot.agents.pilot.gradients import Gradients
from trainpilot.agents.pilot.groups import GroupSettings
from trainpilot.agents.pilot.probe import Probe
from trainpilot.agents.pilot.ranks import agree
from trainpilot.agents.pilot.snapshot import Snapshot
from trainpilot.agents.pilot.told import ToldOptimizer
from trainpilot.agents.pilot.torch_optimizers import TorchOptimizers
from trainpilot.agents.pilot.training_run import Judgement, Measured, TrainingRun, Valid
from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.inner_tasks.errors import TrainpilotError, require


class DivergedError(TrainpilotError):
    """A training has diverged, and the guard may not roll it back (any more)."""


class DecidingOptimizer(ToldOptimizer):
    """What a pilot's optimizer does between two intervals of steps.

    It lets the guard judge the interval behind, puts the model where it is to go on from, asks
    the controller, and writes what is decided into the parameter groups. What somebody's function
    leaves undone when it fails is done in the next step.

    Args:
        model: of the training, whose buffers are rolled back too.
        groups: of parameters, with the multipliers that `with_multipliers` gives.
        run: observes, guards and asks the controller.
        clock: says when.
        warm: optimizers that take in gradients from the beginning.
        validate: gives what a validation set says; None where there is none.
        on_decision: called with the record of each decision; None for nobody.
        snapshot: where the copy lies that is rolled back to: "beside", a device, or None for none.
        foreach: as torch's optimizers have it.
        fused: likewise.

    Attributes:
        decisions: a record of every decision so far, as `decisions.parquet` has them.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict[str, Any]],
        run: TrainingRun,
        clock: Clock,
        *,
        warm: Sequence[str],
        validate: Callable[[], float | tuple[float, float]] | None,
        on_decision: Callable[[dict[str, Any]], None] | None,
        snapshot: str | None,
        foreach: bool | None,
        fused: bool | None,
    ) -> None:
        self._ready = False
        start = run.hyperparameters.row(0)
        # Schedulers of torch look here for what they may change.
        defaults = {"lr": start["learning_rate"]}
        defaults |= {name: start[name] for name in ("weight_decay", "momentum")}
        super().__init__(groups, defaults)
        self._model = model
        self._run = run
        self._clock = clock
        self._validate = validate
        self._on_decision = on_decision
        self._optimizers = TorchOptimizers(self.param_groups, model, warm, foreach, fused)
        self._probe = Probe()
        self._gradients = Gradients()
        self._snapshot: Snapshot | None = None
        self._snapshot_device = snapshot
        self._averaging: ModelAverage | None = None
        self._steps = self._updates = self._good_updates = 0
        self._updated: list[bool] = []
        self._corrections: list[float] = []
        self._looked = False
        self._judgement: Judgement | None = None
        self._settled = True
        self._undelivered: list[dict[str, Any]] = []
        self._interval = clock.interval(0)
        self._begun = self._over = self._said_over = False
        self._ended: str | None = None
        self._settings = GroupSettings(self.param_groups, run.bounds.learning_rate_high)
        self._parameters = [one for group in self.param_groups for one in group["params"]]
        self._ready = True
        self._write()

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """A record of every decision so far; what came of the last one is not known yet."""
        return self._run.records

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have the average of its weights, for evaluations and to save it.

        The weights come back in the end, whatever happens within; not between a `backward` and the
        forward pass before it. Without an average (`ema_decay` 0) they stay::

            with optimizer.averaged():
                valid_loss = evaluate(model)
                torch.save(model.state_dict(), "model.pt")
        """
        if self._averaging is None or self._averaging.is_shown:
            yield
            return
        with self._averaging.shown(self._decay, self._steps):
            yield

    def load_averaged(self) -> None:
        """Give the model the average of its weights for good, where its training ends."""
        self._require_own_weights("load_averaged")
        if self._averaging is not None:
            self._averaging.write(self._decay, self._steps)
            self._averaging.forget()

    @property
    def _decay(self) -> float:
        return float(self._run.hyperparameters.ema_decay[0])

    def _require_own_weights(self, called: str) -> None:
        """Refuse what would take the average for the weights."""
        is_shown = self._averaging is not None and self._averaging.is_shown
        require(not is_shown, f"a pilot's {called} comes outside of averaged()", "it within")

    def _average(self) -> None:
        """Take the weights into their average, if there is to be one."""
        if self._averaging is None and self._decay > 0:
            self._averaging = ModelAverage(self._model, self._parameters)
        if self._averaging is not None:
            self._averaging.take_in(self._decay, self._steps)

    def _begin(self) -> None:
        self._ask_valid()
        self._agree(np.zeros(0))
        self._run.begin()
        self._begun = True
        try:
            self._decide()
        except BaseException:
            # The next step begins anew.
            self._begun = False
            raise

    def _keep_what_moves(self) -> None:
        """What was frozen when the snapshot was made, but has a gradient now, goes into it."""
        if self._snapshot_device is None:
            return
        if self._snapshot is None:
            self._snapshot, self._good_updates = self._new_snapshot(), self._updates
        self._snapshot.extend(self._parameters)

    def _agree(self, measured: np.ndarray) -> np.ndarray:
        """Let all processes of a distributed training have measured and been told the same."""
        device = self._parameters[0].device
        measured, told = agree(measured, np.array(self._told.valid), device)
        self._told.valid = Valid()
        if not np.isnan(told[0]):
            self._run.valid = Valid(*told.tolist())
        return measured

    def _new_snapshot(self) -> Snapshot:
        device = None if self._snapshot_device == "beside" else self._snapshot_device
        return Snapshot(self._model, self._parameters, self._optimizers, device)

    def _next_decision(self) -> Judgement:
        """Close the interval behind and decide on the next; tells what was found.

        What somebody's function or controller leaves undone when it fails is done by the next call.
        """
        judgement = self._judgement
        if judgement is None:
            self._average()
            self._ask_valid()
            judgement = self._judge()
        if not self._settled:
            self._settle(judgement)
        closed = self.decisions[self._run.decision - 1]
        if judgement.ended:
            where = "as it is" if self._snapshot is None else "as it was when all was well"
            limit = "" if judgement.limit is None else f"; the guard's {judgement.limit}"
            self._ended = (
                f"the training must stay finite; given: one that diverged within {self._steps:,} "
                f"steps ({judgement.text}{limit}); the model is left {where}"
            )
        else:
            self._decide()
        self._judgement = None
        # Last, since it may fail; then the record comes with the next one.
        self._undelivered.append(closed)
        while self._undelivered:
            if self._on_decision is not None:
                self._on_decision(self._undelivered[0])
            del self._undelivered[0]
        if self._ended is not None:
            raise DivergedError(self._ended)
        return judgement

    def _judge(self) -> Judgement:
        """Let the guard say what it thinks of the interval behind."""
        sums = self._agree(self._probe.read())
        first = sums[:, 0] if self._looked else None
        sums = sums[:, int(self._looked) :]
        measured = Measured(sums, np.array(self._updated), np.array(self._corrections), first)
        judgement = self._run.judge(measured)
        if self._snapshot is None and judgement.rolled_back:
            # From a state that had none: there is nothing to go back to.
            judgement = judgement._replace(rolled_back=False, ended=True)
        self._judgement, self._settled = judgement, False
        self._probe.clear()
        self._updated, self._corrections, self._looked = [], [], False
        return judgement

    def _settle(self, judgement: Judgement) -> None:
        """Put the model where it is to go on from."""
        if self._snapshot is not None:
            if judgement.rolled_back or judgement.ended:
                self._snapshot.restore()
                self._gradients.clear()
                if self._averaging is not None:
                    self._averaging.forget()
                self._updates = self._good_updates
            elif judgement.sound:
                self._renew(self._snapshot)
        self._settled = True

    def _renew(self, snapshot: Snapshot) -> None:
        # A copy that fails, for want of memory say, is half of two: the next step makes another.
        self._snapshot = None
        snapshot.keep()
        self._snapshot, self._good_updates = snapshot, self._updates

    def _decide(self) -> None:
        self._over = self._clock.is_over(self._run.decision)
        if not self._over:
            self._run.decide()
        self._interval = self._clock.interval(self._run.decision)
        self._write()

    def _ask_valid(self) -> None:
        if self._validate is None:
            return
        with self.averaged():
            found: Any = self._validate()
        given = found if isinstance(found, tuple) else (found,)
        rule = "validate must give a loss, or a loss and an accuracy"
        require(1 <= len(given) <= 2, rule, f"{len(given)} numbers")
        self._told.tell_valid(*given)

    def _say_over(self) -> None:
        if not self._said_over:
            self._said_over = True
            warnings.warn(
                "this training goes on after the total_steps that its pilot was told of, "
                f"{self._interval.first:,}: it keeps its last hyperparameters, and the guard alone "
                "watches on",
                # The line that calls `step`, which is wrapped, as is what must not compile.
                stacklevel=7 if self._is_watched() else 6,
            )

    def _write(self) -> None:
        """Give every group what was decided."""
        settings = self._run.hyperparameters
        self._settings.write(settings, self._factor())
        if self._begun:
            # Whoever looks for an optimizer's state finds that of the one in use.
            self.state = self._optimizers.use(OPTIMIZER_NAMES[settings.optimizer[0]])

    def _factor(self) -> float:
        """Of the learning rate, at the next step."""
        factors = self._run.factors
        if factors is None:
            return 1.0
        last = len(factors) - 1
        return float(factors[last if self._over else min(len(self._updated), last)])

    def _take_settings(self) -> None:
        """Make what somebody else has written into the groups the run's own."""
        taken = self._settings.take(self._run.hyperparameters)
        if taken:
            self._run.take(**taken)
