"""The optimizer menu as arithmetic over flat moments.

Every rule's moments are kept up to date whichever rule is in use, so that a switch does not
start from zero. A further optimizer is one more entry of `OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trainpilot.inner_tasks.errors import unknown

Moments = dict[str, Tensor]

ADAM_BETA2 = 0.999
RMSPROP_ALPHA = 0.99
EPSILON = 1e-8


class UpdateContext(NamedTuple):
    """What an update rule may read, beside its moments.

    Attributes:
        gradient: `(n_runs, n_params)`.
        momentum: `(n_runs, 1)`.
        step: updates made by each run, this one included, `(n_runs, 1)`.
    """

    gradient: Tensor
    momentum: Tensor
    step: Tensor


class Optimizer(NamedTuple):
    """An update rule: `parameters -= learning_rate * direction`.

    Attributes:
        moments: names of the flat tensors that it keeps, zero at the start.
        update_moments: gives the moments after this gradient.
        direction: gives the direction from the moments after this gradient.
        learning_rate_scale: learning rate that moves parameters about as far as Adam
            does with 1.
    """

    moments: tuple[str, ...]
    update_moments: Callable[[Moments, UpdateContext], Moments]
    direction: Callable[[Moments, UpdateContext], Tensor]
    learning_rate_scale: float


def _sgd_moments(moments: Moments, context: UpdateContext) -> Moments:
    return {"momentum_buffer": context.momentum * moments["momentum_buffer"] + context.gradient}


def _sgd_direction(moments: Moments, context: UpdateContext) -> Tensor:
    return moments["momentum_buffer"]


def _adam_moments(moments: Moments, context: UpdateContext) -> Moments:
    gradient = context.gradient
    return {
        "exp_avg": torch.lerp(gradient, moments["exp_avg"], context.momentum),
        "exp_avg_sq": ADAM_BETA2 * moments["exp_avg_sq"] + (1 - ADAM_BETA2) * gradient * gradient,
    }


def _adam_direction(moments: Moments, context: UpdateContext) -> Tensor:
    mean = moments["exp_avg"] / (1 - context.momentum**context.step)
    square = moments["exp_avg_sq"] / (1 - ADAM_BETA2**context.step)
    return mean / (square.sqrt() + EPSILON)


def _rmsprop_moments(moments: Moments, context: UpdateContext) -> Moments:
    gradient = context.gradient
    square = RMSPROP_ALPHA * moments["square_avg"] + (1 - RMSPROP_ALPHA) * gradient * gradient
    return {"square_avg": square}


def _rmsprop_direction(moments: Moments, context: UpdateContext) -> Tensor:
    return context.gradient / (moments["square_avg"].sqrt() + EPSILON)


#: The menu, by name. Formulas: `torch.optim.SGD` (dampening 0), `torch.optim.Adam` (Kingma and
#: Ba, arXiv 1412.6980, algorithm 1; betas (momentum, 0.999)), `torch.optim.RMSprop` (alpha
#: 0.99, not centred, without momentum).
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(("momentum_buffer",), _sgd_moments, _sgd_direction, 30.0),
    "adam": Optimizer(("exp_avg", "exp_avg_sq"), _adam_moments, _adam_direction, 1.0),
    "rmsprop": Optimizer(("square_avg",), _rmsprop_moments, _rmsprop_direction, 1.0),
}

#: Names in the order of the indices that stand for them in arrays.
OPTIMIZER_NAMES = tuple(OPTIMIZERS)
MOMENT_NAMES = tuple(name for rule in OPTIMIZERS.values() for name in rule.moments)
LEARNING_RATE_SCALES = tuple(rule.learning_rate_scale for rule in OPTIMIZERS.values())


def optimizer_index(name: str) -> int:
    """The index of an optimizer.

    Raises:
        TrainpilotError: if there is none of that name.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZER_NAMES.index(name)


def update(moments: Moments, context: UpdateContext, optimizer: Tensor) -> tuple[Tensor, Moments]:
    """The direction of each run's own optimizer, and all moments after this gradient.

    Args:
        moments: by name, each `(n_runs, n_params)`.
        context: gradient, momentum and step count.
        optimizer: index of each run's optimizer, `(n_runs, 1)`.

    Returns:
        The direction, `(n_runs, n_params)`, and the new moments.
    """
    after: Moments = {}
    direction = torch.zeros_like(context.gradient)
    for index, rule in enumerate(OPTIMIZERS.values()):
        own = rule.update_moments(moments, context)
        direction = torch.where(optimizer == index, rule.direction(own, context), direction)
        after.update(own)
    return direction, after
