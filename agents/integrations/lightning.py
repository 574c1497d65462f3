"""A callback that hands the training of a LightningModule to a pilot."""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from trainpilot.agents.integrations.attaching import attach_logged, extra
from trainpilot.agents.integrations.taking_over import take_over
from trainpilot.agents.pilot.optimizer import PilotOptimizer
from trainpilot.agents.pilot.pilot import Pilot
from trainpilot.inner_tasks.errors import require

with extra("lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
    from lightning.pytorch.trainer.states import TrainerFn


class PilotCallback(Callback):
    """Puts a pilot in the place of the optimizer that `configure_optimizers` gives.

    The module stays as it is::

        trainer = Trainer(max_epochs=10, callbacks=[PilotCallback(monitor="val_loss")])
        trainer.fit(module, datamodule)

    The pilot begins as that optimizer is set (`take_over`); schedulers are left out. Every decision
    goes to all loggers of the trainer, as `decision_metrics` has it. Checkpoints hold the pilot's
    state.

    Args:
        pilot: or what `Pilot.load` takes (default: the policy that ships).
        monitor: name under which the module logs its validation loss (default: none is looked at).
        monitor_accuracy: likewise of its validation accuracy, in [0, 1]; needs `monitor`.
        **options: arguments of `Pilot.attach`; `total_steps` is the trainer's own where it is not
            given.

    Attributes:
        optimizer: of the latest fit.
    """

    optimizer: PilotOptimizer

    def __init__(
        self,
        pilot: Pilot | str | Path = "default",
        monitor: str | None = None,
        monitor_accuracy: str | None = None,
        **options: Any,
    ) -> None:
        require(
            monitor is not None or monitor_accuracy is None,
            "monitor_accuracy needs monitor, the name of a loss, beside it",
            monitor_accuracy,
        )
        self._pilot = pilot
        self._monitored = [name for name in (monitor, monitor_accuracy) if name is not None]
        self._options = options
        #: The average of the weights, while a validation sees it.
        self._shown = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of the optimizer, before a checkpoint is loaded into it.

        Raises:
            TrainpilotError: if the module optimizes by hand or with several optimizers, if its
                optimizer cannot be taken over, or if its parameters are sharded.
        """
        require(
            isinstance(trainer, Trainer),
            "a pilot's callback is one for the Trainer of lightning.pytorch",
            f"that of {type(trainer).__module__.partition('.')[0]}",
        )
        require(
            pl_module.automatic_optimization,
            "a pilot needs automatic optimization",
            f"{type(pl_module).__name__} with automatic_optimization = False",
        )
        require(
            isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)),
            "a pilot trains on one device or with DDPStrategy",
            type(trainer.strategy).__name__,
        )
        n_optimizers = len(trainer.optimizers)
        require(n_optimizers == 1, "a pilot takes over from one optimizer", n_optimizers)
        if trainer.lr_scheduler_configs:
            names = ", ".join(type(one.scheduler).__name__ for one in trainer.lr_scheduler_configs)
            warnings.warn(
                f"a pilot sets the learning rate: {names} of configure_optimizers is left out",
                stacklevel=2,
            )
            trainer.strategy.lr_scheduler_configs = []
        options = take_over(trainer.optimizers[0], self._options)
        if "total_steps" not in options:
            steps = trainer.estimated_stepping_batches
            # An endless training, as Lightning says it: infinite or -1.
            options["total_steps"] = int(steps) if 0 < steps < math.inf else None

        def log(metrics: dict[str, float], _: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

        self.optimizer = attach_logged(self._pilot, pl_module, log, options)
        trainer.optimizers = [self.optimizer]

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Tell the pilot the loss, over all batches whose gradients make up a step."""
        loss = loss.detach()
        if trainer.scaler is not None:
            # It is scaled by now; asking for the factor itself would wait for the device.
            loss = loss / trainer.scaler.scale(loss.new_ones(()))
        self.optimizer.observe(train_loss=loss)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the validation see the average of the weights, where there is one."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._shown.enter_context(self.optimizer.averaged())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module with the average of its weights, where there is one.

        The last checkpoint is written by then, with the weights that a training goes on with.
        """
        self.optimizer.load_averaged()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the module with its own weights, should a validation have failed."""
        self._shown.close()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the pilot what the validation set says.

        Raises:
            TrainpilotError: if the module does not log what is monitored.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._shown.close()
        if trainer.sanity_checking:
            return
        found = {name: trainer.callback_metrics.get(name) for name in self._monitored}
        missing = [name for name, value in found.items() if value is None]
        require(
            not missing,
            "what a pilot monitors must be logged in validation_step",
            ", ".join(missing),
        )
        if found:
            self.optimizer.observe(*found.values())
