"""The contract of an inner task, as a check that also serves users' own tasks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
from torch import nn

from trainpilot.inner_tasks.errors import TrainpilotError, explaining, require
from trainpilot.inner_tasks.overlap import Overlap, overlaps
from trainpilot.inner_tasks.protocol import (
    InnerTask,
    check_kind_of_splits,
    check_micro_batch_size,
)

MODALITIES = ("vision", "text", "tabular", "synthetic")

#: Examples that go through the model at once, unless a micro-batch has more.
_CHUNK = 128
#: Where fewer of a split's inputs than this share differ, as of short words of a few letters, it is
#: natural that those of another stand there too. Of inputs drawn at random from so few that 0.9 of
#: others are met, 0.39 differ.
_LEAST_DISTINCT = 0.5
#: Shares of a split's inputs that may stand in another, and from which on that is worth a note.
_MOST_SHARED, _NOTABLE = 0.9, 0.1


def check_inner_task(task: InnerTask) -> list[Overlap]:
    """Check that a task keeps the contract of `InnerTask`.

    Args:
        task: any inner task.

    Returns:
        What its splits have in common, in so far as the contract allows it.

    Raises:
        TrainpilotError: naming the first rule that it breaks.
    """
    name = getattr(task, "name", type(task).__name__)
    with explaining(f"the model, loss, metrics and data of task '{name}' must fit together"):
        if not isinstance(task, InnerTask):
            raise TrainpilotError(
                "a task must have all that trainpilot.InnerTask names; "
                f"given: {type(task).__name__}"
            )
        require(bool(task.name), "a task must have a name", repr(task.name))
        require(
            task.modality in MODALITIES,
            f"the modality of '{task.name}' must be one of {', '.join(MODALITIES)}",
            task.modality,
        )
        require(bool(task.dataset), f"'{task.name}' must name its dataset", repr(task.dataset))
        found = _check_splits(task)
        with warnings.catch_warnings():
            # Torch compares each output with each target then, and only warns.
            warnings.filterwarnings("error", message="Using a target size")
            _check_model(task)
    return found


def notes_on(task: InnerTask, found: Iterable[Overlap]) -> list[str]:
    """What keeps the contract and may still be a mistake: a sentence each.

    Args:
        task: that keeps the contract.
        found: what its splits have in common, as the check gives it.
    """
    notes = [
        f"{pair.share:.0%} of {pair.split}'s inputs stand in {pair.earlier} too: natural for short "
        "sequences, a leak elsewhere"
        for pair in found
        if pair.share > _NOTABLE
    ]
    first, second = (_model_of_seed(task, seed) for seed in (0, 1))
    drawn = [
        values for values in first.parameters() if bool((values != values.flatten()[:1]).any())
    ]
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    if drawn and all(torch.equal(one, other) for one, other in pairs):
        notes.append("the initial weights are the same for every seed: runs differ by data order")
    return notes


def _check_splits(task: InnerTask) -> list[Overlap]:
    splits = task.splits
    check_kind_of_splits(task.name, splits)
    check_micro_batch_size(task.name, task.micro_batch_size, len(splits.train.inputs))
    shapes = set()
    for name, split in splits._asdict().items():
        where = f"split '{name}' of '{task.name}'"
        require(len(split.inputs) > 0, f"{where} must hold examples", 0)
        require(
            len(split.inputs) == len(split.targets),
            f"{where} must hold as many targets as inputs",
            f"{len(split.inputs)} and {len(split.targets)}",
        )
        for part, values in split._asdict().items():
            finite = not values.is_floating_point() or bool(values.isfinite().all())
            require(finite, f"the {part} of {where} must be finite", "NaN or infinity")
        shapes.add((split.inputs.shape[1:], split.inputs.dtype, split.targets.dtype))
    require(
        len(shapes) == 1,
        f"the splits of '{task.name}' must agree in shape and dtype",
        sorted(map(str, shapes)),
    )
    found = overlaps(splits)
    for pair in found:
        if pair.distinct > _LEAST_DISTINCT:
            require(
                pair.share <= _MOST_SHARED,
                f"split '{pair.split}' of '{task.name}' must hold inputs that do not stand in "
                f"{pair.earlier}, at least {1 - _MOST_SHARED:.0%} of them",
                f"{pair.n_shared} of {len(getattr(splits, pair.split).inputs)} that do",
            )
    return found


def _model_of_seed(task: InnerTask, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.make_model()


def _check_model(task: InnerTask) -> None:
    models = [_model_of_seed(task, 0) for _ in range(2)]
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    require(
        all(torch.equal(a, b) for a, b in pairs),
        f"make_model of '{task.name}' must draw its weights from torch's global generator alone",
        "two models of one seed that differ",
    )
    split = task.splits.train
    inputs, targets = (part[: task.micro_batch_size] for part in split)
    model = models[0]
    # Training mode, as a micro-batch would be: that is where the gradient comes from.
    loss = task.loss(model(inputs), targets)
    require(loss.ndim == 0, f"the loss of '{task.name}' must be a scalar", tuple(loss.shape))
    require(
        bool(loss.isfinite()) and loss.item() >= 0,
        f"the loss of '{task.name}' must be finite and not negative at the initial weights",
        loss.item(),
    )
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    require(
        any(bool(gradient.any()) for gradient in gradients),
        f"the loss of '{task.name}' must depend on the model's parameters",
        "a zero gradient",
    )
    metrics = task.metrics(model(inputs), targets)
    for name, value in metrics.items():
        require(value.ndim == 0, f"metric '{name}' of '{task.name}' must be a scalar", value.shape)
    accuracy = metrics["accuracy"].item() if "accuracy" in metrics else 0.0
    require(0 <= accuracy <= 1, f"the accuracy of '{task.name}' must lie in [0, 1]", accuracy)
    model.eval()
    with torch.no_grad():
        once, again = (task.loss(model(inputs), targets).item() for _ in range(2))
        require(
            math.isclose(once, again, rel_tol=1e-4, abs_tol=1e-6),
            f"the model of '{task.name}' must give the same for the same inputs in evaluation mode",
            f"losses of {once:.6g} and {again:.6g}",
        )
        twice = task.loss(model(torch.cat([inputs, inputs])), torch.cat([targets, targets])).item()
        require(
            math.isclose(once, twice, rel_tol=1e-3, abs_tol=1e-6),
            f"the loss of '{task.name}' must be the mean over a batch, the same for a batch and "
            "for that batch twice",
            f"{once:.6g} and {twice:.6g}",
        )
        _check_losses(task, model)


def _check_losses(task: InnerTask, model: nn.Module) -> None:
    """Check the loss over every example of every split, at the initial weights."""
    for name, split in task.splits._asdict().items():
        rule = f"the loss of '{task.name}' must be finite and not negative over all of '{name}'"
        n_chunks = -(-len(split.inputs) // max(task.micro_batch_size, _CHUNK))
        # Of nearly equal size: a last chunk of one example is no batch as a model expects it.
        chunks = (part.tensor_split(n_chunks) for part in split)
        for inputs, targets in zip(*chunks, strict=True):
            with explaining(rule):
                loss = task.loss(model(inputs), targets).item()
            require(math.isfinite(loss) and loss >= 0, rule, loss)
