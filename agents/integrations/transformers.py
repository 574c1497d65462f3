"""A `Trainer` of Hugging Face transformers whose optimizer is a pilot's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from trainpilot.agents.integrations.attaching import attach_logged, extra
from trainpilot.agents.pilot.optimizer import PilotOptimizer
from trainpilot.agents.pilot.pilot import Pilot
from trainpilot.inner_tasks.errors import explaining, require

with extra("transformers"):
    from transformers import Trainer, TrainerCallback


class PilotTrainer(Trainer):
    """A `Trainer` that trains under a pilot.

    Take it in the place of `Trainer`, or beside a trainer of another kind::

        class PilotSeq2SeqTrainer(PilotTrainer, Seq2SeqTrainer): ...

    One that is built already takes a pilot by `attach`.

    The pilot begins with Adam and the arguments' `learning_rate`, `weight_decay` (none for biases
    and norms, as the Trainer has it) and `adam_beta1`, or with what `pilot_options` say. `optim`,
    `lr_scheduler_type` and the warm-up have no part. Every decision is logged as the Trainer logs
    its own losses, as `decision_metrics` has it; checkpoints hold the pilot's state. Each call of
    `train` begins anew, or where the checkpoint ends.

    Args:
        *args: of `Trainer`.
        pilot: or what `Pilot.load` takes (default: the policy that ships).
        pilot_options: arguments of `Pilot.attach`; `total_steps` is the Trainer's own where it is
            not given.
        monitor: metric of an evaluation that is the validation loss (default: "eval_loss", where
            there is one).
        monitor_accuracy: metric, from `compute_metrics`, that is the accuracy, in [0, 1]
            (default: none).
        **kwargs: of `Trainer`.

    Attributes:
        pilot_optimizer: of the latest `train`.

    Raises:
        TrainpilotError: if it is given an optimizer or a scheduler, or its parameters are sharded;
            in an evaluation, if what is monitored is not among its metrics.
    """

    pilot_optimizer: PilotOptimizer

    def __init__(
        self,
        *args: Any,
        pilot: Pilot | str | Path = "default",
        pilot_options: dict[str, Any] | None = None,
        monitor: str | None = None,
        monitor_accuracy: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._pilot_take(pilot, pilot_options, monitor, monitor_accuracy)

    def _pilot_take(
        self,
        pilot: Pilot | str | Path,
        pilot_options: dict[str, Any] | None,
        monitor: str | None,
        monitor_accuracy: str | None,
    ) -> None:
        """What there is to do for a trainer that is built."""
        given = (self.optimizer, self.lr_scheduler, self.optimizer_cls_and_kwargs)
        require(
            all(one is None for one in given),
            "a pilot is the optimizer and the scheduler of its trainer, from its first step on",
            ", ".join(type(one).__name__ for one in given if one is not None),
        )
        require(
            not (self.is_deepspeed_enabled or self.is_fsdp_enabled),
            "a pilot trains parameters that are whole on every device",
            "DeepSpeed" if self.is_deepspeed_enabled else "FSDP",
        )
        self._pilot_given = pilot
        self._pilot_options = pilot_options or {}
        self._pilot_monitor = monitor
        self._pilot_monitor_accuracy = monitor_accuracy
        self._pilot_said_unknown = False
        # The first of them, so that others find the model as it is left.
        self.callback_handler.callbacks.insert(0, _Beside())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Attach the pilot."""
        own: nn.Module = self.model if model is None else model  # type: ignore[assignment]
        decayed = set(self.get_decay_parameter_names(own))
        trained = {name: one for name, one in own.named_parameters() if one.requires_grad}
        undecayed = trained.keys() - decayed
        groups: list[dict[str, Any]] = [
            {"params": [one for name, one in trained.items() if name in decayed]},
            {
                "params": [one for name, one in trained.items() if name in undecayed],
                "weight_decay": 0.0,
            },
        ]
        options = {
            "total_steps": self.state.max_steps,
            "params": groups,
            "lr": self.args.learning_rate,
            "weight_decay": self.args.weight_decay,
            "momentum": self.args.adam_beta1,
            **self._pilot_options,
        }

        def log(metrics: dict[str, float], _: int) -> None:
            self.log(metrics)

        self.pilot_optimizer = attach_logged(self._pilot_given, own, log, options)
        self.optimizer = self.pilot_optimizer
        return self.pilot_optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """A scheduler that changes nothing: the Trainer calls one, and logs its learning rate."""
        own = self.optimizer if optimizer is None else optimizer
        scheduler = ConstantLR(own, factor=1.0)  # type: ignore[arg-type]
        self.lr_scheduler = scheduler  # type: ignore[assignment]
        return scheduler

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's, whose loss the pilot is told."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.pilot_optimizer.observe(train_loss=loss)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The Trainer's; the pilot is told what it finds in the course of a training.

        In one it is the average of the weights that is evaluated, where the pilot has one.
        """
        if not self.is_in_train:
            return super().evaluate(*args, **kwargs)
        with self.pilot_optimizer.averaged():
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", args[2] if len(args) > 2 else "eval")
        self._pilot_tell(metrics, is_whole=prefix == "eval")
        return metrics

    def _pilot_tell(self, metrics: dict[str, float], is_whole: bool) -> None:
        """Tell the pilot; what an evaluation of one set of several lacks, another may have."""
        loss = self._pilot_monitor or "eval_loss"
        if loss in metrics:
            accuracy = metrics.get(self._pilot_monitor_accuracy or "")
            self.pilot_optimizer.observe(metrics[loss], accuracy)
        if not is_whole:
            return
        for name in (self._pilot_monitor, self._pilot_monitor_accuracy):
            require(
                name is None or name in metrics,
                "what a pilot monitors must be a metric of the evaluation, one of "
                + ", ".join(metrics),
                name,
            )
        if loss not in metrics and not self._pilot_said_unknown:
            self._pilot_said_unknown = True
            warnings.warn(
                "a pilot's monitor must say which metric is the validation loss, or the pilot is "
                f"told none; given: nothing, and an evaluation that gives {', '.join(metrics)}",
                stacklevel=3,
            )


def attach(
    trainer: Trainer,
    pilot: Pilot | str | Path = "default",
    pilot_options: dict[str, Any] | None = None,
    monitor: str | None = None,
    monitor_accuracy: str | None = None,
) -> None:
    """Make a trainer that is already built train under a pilot.

    For what another library or function builds, of whatever class: it becomes a `PilotTrainer` of
    that class, with the pilot as its optimizer and a callback beside its own. A callback alone
    would not do, since none is told the loss of a step before it is made.

    Args:
        trainer: that was given neither an optimizer nor a scheduler, and has not trained yet.
        pilot: as `PilotTrainer` takes it, and so are the others.
        pilot_options: likewise.
        monitor: likewise.
        monitor_accuracy: likewise.

    Raises:
        TrainpilotError: if it is no Trainer, trains under a pilot already, or has methods of its
            own in the place of its class's, and as `PilotTrainer` does.

    Warns:
        UserWarning: if its class makes an optimizer of its own, which now has no part.
    """
    own = type(trainer)
    require(
        isinstance(trainer, Trainer) and not isinstance(trainer, PilotTrainer),
        "a pilot is attached to a Trainer of transformers that has none yet",
        own.__name__,
    )
    replaced = [name for name in _OVERRIDDEN if name in vars(trainer)]
    require(
        not replaced,
        f"a pilot needs a trainer whose {', '.join(_OVERRIDDEN)} are those of its class",
        f"one with its own {', '.join(replaced)}",
    )
    with explaining("a pilot needs a trainer whose class may be derived from"):
        trainer.__class__ = _piloted(own)
    try:
        cast("PilotTrainer", trainer)._pilot_take(pilot, pilot_options, monitor, monitor_accuracy)
    except BaseException:
        trainer.__class__ = own
        raise
    if own.create_optimizer is not Trainer.create_optimizer:
        warnings.warn(
            f"a pilot is the optimizer in the place of what {own.__name__}.create_optimizer makes; "
            'groups of parameters go into pilot_options, {"params": groups}',
            stacklevel=2,
        )


#: Methods of a Trainer that a pilot does otherwise.
_OVERRIDDEN = ("create_optimizer", "create_scheduler", "training_step", "evaluate")


def _piloted(own: type[Trainer]) -> type[PilotTrainer]:
    if own is Trainer:
        return PilotTrainer
    names = {"__doc__": f"{own.__name__} under a pilot.", "__module__": own.__module__}
    return type(f"Pilot{own.__name__}", (PilotTrainer, own), names)


class _Beside(TrainerCallback):
    """What a pilot does beside the methods of its trainer."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where a gradient scaler has skipped a step, its losses are none of the next one's.

        Called once for all batches of a step; there are no gradients yet.
        """
        kwargs["optimizer"].optimizer.zero_grad()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model with the average of its weights, or with the best checkpoint's own."""
        if not args.load_best_model_at_end:
            kwargs["optimizer"].optimizer.load_averaged()
