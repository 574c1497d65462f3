"""A pilot in a loop that Hugging Face accelerate prepares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainpilot.agents.integrations.attaching import attach_logged, extra
from trainpilot.agents.pilot.optimizer import PilotOptimizer
from trainpilot.agents.pilot.pilot import Pilot
from trainpilot.inner_tasks.errors import require

with extra("accelerate"):
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

#: Those under which every device has all parameters.
_WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def attach(
    accelerator: Accelerator,
    model: nn.Module,
    total_steps: int | None = None,
    *,
    pilot: Pilot | str | Path = "default",
    **options: Any,
) -> PilotOptimizer:
    """An optimizer for `prepare`, which `accelerator.backward` tells the losses from now on.

    The loop stays as it is::

        optimizer = attach(accelerator, model, total_steps)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    Every decision goes to `accelerator.log`, as `decision_metrics` has it, with the number of
    updates as its step; `save_state` and `load_state` include the pilot. An accelerator has one
    pilot, the one attached last.

    Args:
        accelerator: of the loop.
        model: to train, not yet prepared.
        total_steps: updates in the whole training, which gradient accumulation makes fewer than
            batches (default: not known).
        pilot: or what `Pilot.load` takes (default: the policy that ships).
        **options: further arguments of `Pilot.attach`.

    Raises:
        TrainpilotError: if parameters are sharded, or `Pilot.attach` refuses its arguments.
    """
    require(
        accelerator.distributed_type in _WHOLE,
        "a pilot trains parameters that are whole on every device",
        accelerator.distributed_type.value,
    )

    def log(metrics: dict[str, float], step: int) -> None:
        accelerator.log(metrics, step=step)

    optimizer = attach_logged(pilot, model, log, {"total_steps": total_steps, **options})

    def backward(loss: Tensor, **kwargs: Any) -> None:
        # The class's own: an accelerator may have had a pilot before.
        type(accelerator).backward(accelerator, loss, **kwargs)
        optimizer.observe(train_loss=loss.detach() / accelerator.gradient_accumulation_steps)

    accelerator.backward = backward
    return optimizer
