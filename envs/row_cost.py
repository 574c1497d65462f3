"""How much work an inner step of a task is."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainpilot.inner_tasks.family import TaskFamily, Trainable

#: A backward pass is about two forward passes.
_PASSES = 3
#: Arithmetic of all optimizers' moments, the update and the signals, for each parameter.
_FLOPS_PER_PARAMETER = 60
#: What a row's decision costs beside its arithmetic, as FLOPs of an inner step. Measured: 0.2 ms
#: for a row among others and 0.6 ms for a family's; ten steps of a million FLOPs take 0.22 ms.
_FIXED, _FIXED_IN_FAMILY = 1e6, 3e6
#: Tasks of a family that stand for all.
_SAMPLE = 4


def row_cost(task: Trainable) -> float:
    """Estimate of the work of one inner step of one row, the same on every machine (FLOPs)."""
    if isinstance(task, TaskFamily):
        sample = range(min(_SAMPLE, task.n_tasks))
        mean = sum(row_cost(task.task(number)) for number in sample) / len(sample)
        return mean + _FIXED_IN_FAMILY - _FIXED
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model = task.make_model()
            with FlopCounterMode(display=False) as counter:
                model(task.splits.train.inputs[: task.micro_batch_size])
    except Exception:
        # A task that cannot be trained is for its worker to refuse, in a sentence.
        return _FIXED
    n_params = sum(parameter.numel() for parameter in model.parameters())
    return float(_PASSES * counter.get_total_flops() + _FLOPS_PER_PARAMETER * n_params + _FIXED)
