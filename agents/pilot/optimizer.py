"""The optimizer that a pilot attaches to a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainpilot.agents.pilot.averaging import ModelAverage
from trainpilot.agents.pilot.deciding import DecidingOptimizer, DivergedError
from trainpilot.agents.pilot.groups import with_multipliers
from trainpilot.agents.pilot.ranks import mean_loss
from trainpilot.agents.pilot.told import scalar
from trainpilot.agents.pilot.training_run import Judgement, Valid, plain_numbers
from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.inner_tasks.errors import TrainpilotError, require


class PilotOptimizer(DecidingOptimizer):
    """An optimizer whose hyperparameters a controller sets while the model trains.

    Made by `Pilot.attach`. Use it as any optimizer of torch, and give `step` the loss::

        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)

    Attributes:
        decisions: a record of every decision so far, as `decisions.parquet` has them.
    """

    @property
    def steps(self) -> int:
        """Calls of `step` so far that had gradients."""
        return self._steps

    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor] | None = None, *, loss: Tensor | float | None = None
    ) -> Tensor | None:
        """Make a step, and from time to time a decision.

        A step for which nothing has a gradient is none, as for torch's optimizers, but the first
        of a training is refused.

        Args:
            closure: evaluates the model anew and returns the loss, as torch's optimizers take it;
                it may return None for a batch that is left out.
            loss: of the batch whose gradients the parameters have (default: what `observe` was
                told, or else what the closure returned).

        Returns:
            What the closure returned.

        Raises:
            TrainpilotError: without a loss that is one number, or with gradients that are sparse.
            DivergedError: if the training has diverged for good; where there is a snapshot, the
                model is left as it was when all was well.
        """
        returned = None
        if closure is not None:
            require(
                callable(closure),
                "a pilot's step takes a closure, or the loss by its name, step(loss=loss)",
                f"a {type(closure).__name__}",
            )
            with torch.enable_grad():
                returned = closure()
        told = self._told.take_train()
        if loss is None:
            loss = returned if told is None else told
        if loss is None:
            if (closure is not None or self._begun) and not self._has_gradients():
                return returned
            raise TrainpilotError(
                "a pilot's step needs the loss of the batch, optimizer.step(loss=loss), "
                "optimizer.observe(train_loss=loss) before it, or a closure that returns it; "
                "given: none"
            )
        with torch.no_grad():
            self._step(scalar(loss))
        return returned

    # In a compiled training step it is left as it is: it would be compiled anew at each decision.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _step(self, loss: Tensor | float) -> None:
        if self._ended is not None:
            raise DivergedError(self._ended)
        self._require_own_weights("step")
        self._take_settings()
        # Where somebody's function has failed in the last step.
        is_judged = self._judgement is not None
        if self._begun and (is_judged or self._steps >= self._interval.end):
            rolled_back = self._next_decision().rolled_back
            if rolled_back and not is_judged:
                # These gradients are of weights that are no more.
                return
        parameters = self._parameters
        if not self._has_gradients():
            if self._begun:
                return
            raise TrainpilotError(
                "a pilot's step needs gradients, loss.backward() comes before it; given: "
                "parameters without any"
            )
        if not self._begun:
            self._begin()
        self._keep_what_moves()
        is_measured = self._move(loss, parameters)
        if self._over:
            self._say_over()
        if self._steps == self._interval.end:
            self._next_decision()
        elif is_measured:
            self._settings.write_rates(self._run.hyperparameters, self._factor())

    def _move(self, loss: Tensor | float, parameters: list[Tensor]) -> bool:
        """Make the update; tells whether the step is one of those that are measured."""
        is_measured = self._steps == self._interval.measured[len(self._updated)]
        is_first = self._steps == self._interval.first and not self._looked
        is_looked_at = not is_measured and is_first and self._run.wants_first
        if is_measured or is_looked_at:
            loss = mean_loss(loss, parameters[0].device)
        if not is_measured:
            if is_looked_at:
                self._probe.look(loss, parameters)
                self._looked = True
            self._update(parameters)
        else:
            step = self._probe.begin(loss, parameters, self._optimizers.mean)
            updated = self._update(parameters)
            means = [self._optimizers.mean(parameter) for parameter in parameters]
            self._probe.end(step, [mean for mean in means if mean is not None])
            momentum = float(self._run.hyperparameters.momentum[0])
            self._updated.append(updated)
            self._corrections.append(1 / (1 - momentum ** max(self._updates, 1)))
        self._steps += 1
        return is_measured

    def _has_gradients(self) -> bool:
        found = False
        for parameter in self._parameters:
            gradient = parameter.grad
            if gradient is not None:
                found = True
                if gradient.layout != torch.strided:
                    raise TrainpilotError(
                        "a pilot needs gradients that are dense; given: one of layout "
                        f"{gradient.layout}"
                    )
        return found

    def _update(self, parameters: list[Tensor]) -> bool:
        """Move the parameters, unless gradients of more batches are to come; tells whether."""
        settings = self._run.hyperparameters
        batch_size, clip = int(settings.batch_size[0]), float(settings.gradient_clip[0])
        with self._gradients.prepared(parameters, batch_size, clip) as is_complete:
            if is_complete:
                self._optimizers.step()
                self._updates += 1
        return is_complete

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters from now on.

        Args:
            param_group: as torch's optimizers take it; its "lr" and "weight_decay" keep their
                ratio to those of the run, which it has without them, and a "momentum" of its own
                stays.
        """
        if not self._ready:
            super().add_param_group(param_group)
            return
        self._require_own_weights("add_param_group")
        self._take_settings()
        super().add_param_group(with_multipliers(param_group, self._run.hyperparameters))
        group = self.param_groups[-1]
        self._optimizers.add_group(group)
        # In place: the snapshot knows the same list.
        self._parameters.extend(group["params"])
        if self._snapshot is not None:
            self._snapshot.extend(group["params"])
        self._write()

    def _shapes(self) -> list[list[list[int]]]:
        """Of the parameters of each group."""
        return [[list(one.shape) for one in group["params"]] for group in self.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        """Refuses: a copy would move the same parameters."""
        raise TrainpilotError(
            "a pilot's optimizer is not copied or pickled; attach the pilot to the copied model "
            "and load the optimizer's state_dict"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on, snapshot and average included."""
        self._require_own_weights("state_dict")
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state = self._state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    def _state_dict(self) -> dict[str, Any]:
        groups = [
            plain_numbers({name: value for name, value in group.items() if name != "params"})
            for group in self.param_groups
        ]
        pilot: dict[str, Any] = {
            "format": _FORMAT,
            "begun": self._begun,
            "clock": self._clock.settings,
            "shapes": self._shapes(),
            "attached": self._run.attached,
            "told": list(self._told.valid),
            "written": self._settings.state_dict(),
            "ended": self._ended,
        }
        if self._begun:
            pilot |= {
                "run": self._run.state_dict(),
                "probe": self._probe.rows,
                "gradients": self._gradients.state_dict(self._parameters),
                "snapshot": None if self._snapshot is None else self._snapshot.state_dict(),
                "average": None if self._averaging is None else self._averaging.state_dict(),
                **{name: getattr(self, f"_{name}") for name in _COUNTS},
                "updated": list(self._updated),
                "corrections": list(self._corrections),
                "judgement": None if self._judgement is None else list(self._judgement),
                "undelivered": [record["decision"] for record in self._undelivered],
            }
        return {"state": self._optimizers.state_dict(), "param_groups": groups, "pilot": pilot}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        The optimizer must be attached as the other was; then it goes on to the last bit.

        Raises:
            TrainpilotError: if it is the state of another optimizer, of other groups or of another
                model; nothing is changed then.

        Warns:
            UserWarning: if the controller, the bounds or the guard are others: those of this
                optimizer count from now on.
        """
        self._require_own_weights("load_state_dict")
        if isinstance(state_dict, dict):
            state_dict = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        self._load_state_dict(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _load_state_dict(self, state_dict: dict[str, Any]) -> None:
        require(isinstance(state_dict, dict), "a state must be what state_dict gave", state_dict)
        pilot, groups = state_dict.get("pilot"), state_dict.get("param_groups", [])
        if pilot is None:
            raise TrainpilotError(
                "a pilot goes on from the state of a pilot's optimizer; given: that of another"
            )
        require(
            pilot.get("format") == _FORMAT,
            f"this trainpilot goes on from states of format {_FORMAT}",
            f"one of format {pilot.get('format', 1)}, from another version",
        )
        require(
            len(groups) == len(self.param_groups),
            f"the state must have as many parameter groups as the optimizer, "
            f"{len(self.param_groups)}",
            len(groups),
        )
        require(
            pilot["shapes"] == self._shapes(),
            "the state must be that of parameters of the same shapes in the same groups",
            "others",
        )
        require(
            pilot["clock"] == self._clock.settings,
            "a training goes on with the total_steps, decisions, measured_steps and decide_every "
            f"that it began with, {pilot['clock']}",
            self._clock.settings,
        )
        require(
            pilot["begun"] or not self._begun,
            "a training that goes on must have begun",
            "a state from before the first step",
        )
        missing = {*_STARTED, *_COUNTS} - pilot.keys() if pilot["begun"] else set()
        require(not missing, "a pilot's state must be whole", f"one without {', '.join(missing)}")
        snapshot = pilot.get("snapshot")
        others = [
            name for name, own in self._run.attached.items() if pilot["attached"][name] != own
        ]
        if others:
            warnings.warn(
                f"this training goes on with another {' and another '.join(others)} than it began "
                "with",
                stacklevel=3,
            )
        for group, saved in zip(self.param_groups, groups, strict=True):
            group |= saved
        self._settings.load_state_dict(pilot["written"])
        self._told.valid, self._ended = Valid(*pilot["told"]), pilot["ended"]
        self._begun = pilot["begun"]
        if not self._begun:
            return
        self._optimizers.load_state_dict(state_dict["state"])
        self._run.load_state_dict(pilot["run"])
        self._probe.rows = [row.to(self._parameters[0].device) for row in pilot["probe"]]
        self._gradients.load_state_dict(pilot["gradients"], self._parameters)
        for name in _COUNTS:
            setattr(self, f"_{name}", pilot[name])
        self._updated, self._corrections = list(pilot["updated"]), list(pilot["corrections"])
        judgement = pilot["judgement"]
        self._judgement = None if judgement is None else Judgement(*judgement)
        self._undelivered = [self.decisions[number] for number in pilot["undelivered"]]
        self._interval = self._clock.interval(self._run.decision)
        # Where the state has none, the model may not be what it is to go on as before it goes on.
        self._snapshot = None
        if self._snapshot_device is not None and snapshot is not None:
            self._snapshot = self._new_snapshot()
            self._snapshot.load_state_dict(snapshot)
        self._averaging = None
        if pilot["average"] is not None:
            self._averaging = ModelAverage(self._model, self._parameters)
            self._averaging.load_state_dict(pilot["average"])
        name = OPTIMIZER_NAMES[self._run.hyperparameters.optimizer[0]]
        self.state = self._optimizers.use(name)


#: Of what `state_dict` gives.
_FORMAT = 4

#: Of a training that has begun.
_STARTED = (
    "run",
    "probe",
    "gradients",
    "snapshot",
    "average",
    "updated",
    "corrections",
    "judgement",
    "undelivered",
)

#: What is counted and noted beside, by the names of the attributes.
_COUNTS = ("steps", "updates", "good_updates", "over", "said_over", "looked", "settled")
