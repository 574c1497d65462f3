"""The optimizer menu as arithmetic over flat moments.

Every rule's moments are kept up to date whichever rule is in use, so that a switch does not
start from zero. `register_optimizer` adds one of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainpilot.inner_tasks.errors import require, unknown

Moments = dict[str, Tensor]

ADAM_BETA2 = 0.999
RMSPROP_ALPHA = 0.99
LION_BETA2 = 0.99
EPSILON = 1e-8

#: Adam's first moment; it is a signal too, and so kept whatever the menu.
MEAN_GRADIENT = "exp_avg"


class UpdateContext(NamedTuple):
    """What an update rule may read, beside its moments.

    The scalars of a run come ready-made: inside the compiled update, whatever is computed
    from them is computed again for every parameter.

    Attributes:
        gradient: clipped, mean over the accumulated micro-batches, `(n_rows, n_params)`.
        momentum: `(n_rows, 1)`, as are the scalars that follow.
        one_minus_momentum: so that it need not be computed for every parameter.
        mean_correction: `1 / (1 - momentum ** step)`, Adam's correction of the first moment.
        square_correction: `1 / (1 - ADAM_BETA2 ** step)`, that of the second.
        step: updates made by each run, this one included.
    """

    gradient: Tensor
    momentum: Tensor
    one_minus_momentum: Tensor
    mean_correction: Tensor
    square_correction: Tensor
    step: Tensor


class Direction(NamedTuple):
    """Where an optimizer goes: `numerator / (sqrt(square) + EPSILON)`.

    Attributes:
        numerator: `(n_rows, n_params)`.
        square: likewise, >= 0; None for no division. Root and division are the slowest
            arithmetic of an update and are done once for all optimizers.
    """

    numerator: Tensor
    square: Tensor | None = None


class Optimizer(NamedTuple):
    """An update rule: `parameters -= learning_rate * (direction + weight_decay * parameters)`.

    Attributes:
        moments: names of the flat tensors that it keeps, zero at the start; a name that
            another rule has too is shared with it.
        update_moments: gives the moments after this gradient.
        direction: gives the direction from the moments before and after this gradient.
        learning_rate_scale: learning rate that does about what Adam's does with 1.
        momentum: gives what `envs.orthogonal` makes the direction of where a parameter is a
            matrix, from the moments before this gradient (default: `direction` is that of all
            parameters).
        vector_scale: what the direction of vectors is multiplied by where matrices have one of
            their own (`envs.orthogonal.Kind`).
    """

    moments: tuple[str, ...]
    update_moments: Callable[[Moments, UpdateContext], Moments]
    direction: Callable[[Moments, Moments, UpdateContext], Direction]
    learning_rate_scale: float
    momentum: Callable[[Moments, UpdateContext], Tensor] | None = None
    vector_scale: float = 1.0


def _sgd_moments(before: Moments, context: UpdateContext) -> Moments:
    return {"momentum_buffer": context.momentum * before["momentum_buffer"] + context.gradient}


def _sgd_direction(before: Moments, after: Moments, context: UpdateContext) -> Direction:
    return Direction(after["momentum_buffer"])


def _nesterov_direction(before: Moments, after: Moments, context: UpdateContext) -> Direction:
    return Direction(context.gradient + context.momentum * after["momentum_buffer"])


def mean_gradient(before: Moments, context: UpdateContext) -> Tensor:
    """Adam's first moment after this gradient."""
    decayed = context.momentum * before[MEAN_GRADIENT]
    return decayed + context.one_minus_momentum * context.gradient


def _adam_moments(before: Moments, context: UpdateContext) -> Moments:
    square = context.gradient * context.gradient
    return {
        MEAN_GRADIENT: mean_gradient(before, context),
        "exp_avg_sq": ADAM_BETA2 * before["exp_avg_sq"] + (1 - ADAM_BETA2) * square,
    }


def _adam_direction(before: Moments, after: Moments, context: UpdateContext) -> Direction:
    return Direction(
        after["exp_avg"] * context.mean_correction,
        after["exp_avg_sq"] * context.square_correction,
    )


def _rmsprop_moments(before: Moments, context: UpdateContext) -> Moments:
    square = context.gradient * context.gradient
    return {"square_avg": RMSPROP_ALPHA * before["square_avg"] + (1 - RMSPROP_ALPHA) * square}


def _rmsprop_direction(before: Moments, after: Moments, context: UpdateContext) -> Direction:
    return Direction(context.gradient, after["square_avg"])


def _lion_moments(before: Moments, context: UpdateContext) -> Moments:
    return {
        "lion_exp_avg": LION_BETA2 * before["lion_exp_avg"] + (1 - LION_BETA2) * context.gradient
    }


def _lion_direction(before: Moments, after: Moments, context: UpdateContext) -> Direction:
    mean = context.momentum * before["lion_exp_avg"]
    return Direction(torch.sign(mean + context.one_minus_momentum * context.gradient))


#: Of Muon's rate in units of Adam's.
_MUON_SCALE = 3.0


def _muon_momentum(before: Moments, context: UpdateContext) -> Tensor:
    mean = context.momentum * mean_gradient(before, context)
    return mean + context.one_minus_momentum * context.gradient


#: The menu, by name. Formulas: `torch.optim.SGD` (dampening 0; momentum 0 is plain gradient
#: descent), the same with `nesterov=True`, `torch.optim.AdamW` (Kingma and Ba, arXiv 1412.6980,
#: algorithm 1, with the decay of arXiv 1711.05101; betas (momentum, 0.999)),
#: `torch.optim.RMSprop` (alpha 0.99, not centred, without momentum), and Lion (arXiv
#: 2302.06675, algorithm 2; betas (momentum, 0.99)); and `torch.optim.Muon` for matrices, beside
#: that Adam for all else (Jordan et al. 2024, Nesterov's momentum, `match_rms_adamw`), with Muon's
#: rate for tables of embeddings and a third of it, Adam's own, for vectors.
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(("momentum_buffer",), _sgd_moments, _sgd_direction, 30.0),
    "adam": Optimizer(("exp_avg", "exp_avg_sq"), _adam_moments, _adam_direction, 1.0),
    "rmsprop": Optimizer(("square_avg",), _rmsprop_moments, _rmsprop_direction, 1.0),
    "nesterov": Optimizer(("momentum_buffer",), _sgd_moments, _nesterov_direction, 30.0),
    # Every parameter moves by the whole rate, where Adam's ratio is well below 1 on average.
    "lion": Optimizer(("lion_exp_avg",), _lion_moments, _lion_direction, 0.2),
    # Entries move about as far as Adam's at 1, but a rate of 3 is as good as Adam's 1; for vectors,
    # which are Adam's, 1 stays better: both measured in docs/experiments.md.
    "muon": Optimizer(
        ("exp_avg", "exp_avg_sq"),
        _adam_moments,
        _adam_direction,
        _MUON_SCALE,
        _muon_momentum,
        vector_scale=1 / _MUON_SCALE,
    ),
}

#: Weight decay is decoupled for every optimizer, which makes these two one.
ALIASES = {"adamw": "adam"}

#: Among the optimizers that a policy chooses from, the one that is in use.
KEEP = "keep"

#: Names in the order of the indices that stand for them in arrays.
OPTIMIZER_NAMES = list(OPTIMIZERS)
LEARNING_RATE_SCALES = [rule.learning_rate_scale for rule in OPTIMIZERS.values()]


def register_optimizer(name: str, rule: Optimizer) -> None:
    """Add an optimizer to the menu of engines that are made from now on.

    Its formula is all that is needed: the engine makes C++ of it where it is elementwise
    arithmetic, square roots and signs, and leaves it to torch where it is not. Call it where your
    task is defined, so that worker processes, which import that, have it too. Policies see that
    none of the optimizers that they know is in use; `Pilot` has no optimizer of torch for it.

    Args:
        name: how it is called, in `env.optimizers` for example.
        rule: the optimizer.

    Raises:
        TrainpilotError: if there is another of that name.
    """
    taken = OPTIMIZERS.get(name)
    require(
        taken in (None, rule) and name not in (*ALIASES, KEEP),
        "an optimizer needs a name of its own, other than "
        + ", ".join([*OPTIMIZERS, *ALIASES, KEEP]),
        name,
    )
    if taken is None:
        OPTIMIZERS[name] = rule
        OPTIMIZER_NAMES.append(name)
        LEARNING_RATE_SCALES.append(rule.learning_rate_scale)


def optimizer_index(name: str) -> int:
    """The index of an optimizer.

    Raises:
        TrainpilotError: if there is none of that name.
    """
    name = ALIASES.get(name, name)
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, [*OPTIMIZERS, *ALIASES])
    return OPTIMIZER_NAMES.index(name)


def menu(names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the named optimizers, in ascending order.

    Raises:
        TrainpilotError: if there is none, or one is unknown.
    """
    require(len(names) > 0, "optimizers must name an optimizer", "none")
    return tuple(sorted({optimizer_index(name) for name in names}))


def moment_names(optimizers: Sequence[int]) -> tuple[str, ...]:
    """What runs keep that may use these optimizers, given by their indices."""
    rules = [OPTIMIZERS[OPTIMIZER_NAMES[index]] for index in optimizers]
    names = [MEAN_GRADIENT, *(name for rule in rules for name in rule.moments)]
    return tuple(dict.fromkeys(names))


def moments_after(before: Moments, context: UpdateContext, optimizers: Sequence[int]) -> Moments:
    """What runs keep after this gradient that may use these optimizers."""
    # Adam's first moment is always there.
    after: Moments = {MEAN_GRADIENT: mean_gradient(before, context)}
    for index in optimizers:
        rule = OPTIMIZERS[OPTIMIZER_NAMES[index]]
        if not after.keys() >= set(rule.moments):
            after |= rule.update_moments(before, context)
    return after


def update(
    moments: Moments, context: UpdateContext, optimizer: Tensor, optimizers: Sequence[int]
) -> tuple[Tensor, Moments]:
    """The direction of each run's own optimizer, and all moments after this gradient.

    Args:
        moments: by name, each `(n_rows, n_params)`.
        context: gradient and scalars.
        optimizer: index of each row's optimizer, `(n_rows, 1)`, of any dtype.
        optimizers: indices of those that rows may use.

    Returns:
        The direction, `(n_rows, n_params)`, and the new moments.
    """
    after = moments_after(moments, context, optimizers)
    one = torch.ones((), dtype=context.gradient.dtype, device=context.gradient.device)
    numerator, square, divided = torch.zeros_like(context.gradient), one, None
    for index in optimizers:
        rule = OPTIMIZERS[OPTIMIZER_NAMES[index]]
        chosen = optimizer == index
        direction = rule.direction(moments, after, context)
        numerator = torch.where(chosen, direction.numerator, numerator)
        if direction.square is not None:
            square = torch.where(chosen, direction.square, square)
            divided = chosen if divided is None else divided | chosen
    if divided is None:
        return numerator, after
    return numerator / torch.where(divided, square.sqrt() + EPSILON, one), after
