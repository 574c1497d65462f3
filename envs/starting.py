"""Which trainer an engine takes: the fastest that does what the task says."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from trainpilot.envs.chain_trainer import ChainTrainer
from trainpilot.envs.compiling import missing_compiler
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.mapped import MappedTrainer
from trainpilot.envs.native_code import UntranslatableError
from trainpilot.envs.native_update import native_update
from trainpilot.envs.signals import StepSums
from trainpilot.envs.trainer import Orders, RunState, Trainer
from trainpilot.inner_tasks.errors import explaining, first_line, require
from trainpilot.inner_tasks.protocol import InnerTask, Split


class Trial(NamedTuple):
    """Some runs and what they are to do, for trainers to be tried on."""

    state: RunState
    orders: Orders


class Setting(NamedTuple):
    """What a trainer is made for.

    Attributes:
        task: gives data, model and loss.
        model: of the task.
        optimizers: indices of those that runs may use.
        tile: rows that are worked on together.
        observed: examples of `valid` and `outer_valid` that are evaluated.
        device: where runs live.
        mixed_precision: whether the model runs in bfloat16.
    """

    task: InnerTask
    model: FlatModel
    optimizers: tuple[int, ...]
    tile: int
    observed: tuple[Split, Split]
    device: torch.device
    mixed_precision: bool

    @property
    def tolerance(self) -> float:
        """How far two trainers' numbers may lie apart, relative to the largest."""
        return 0.05 if self.mixed_precision else 1e-3

    def mapped(self, state: RunState, *, row_by_row: bool) -> MappedTrainer:
        """The trainer that takes any model."""
        return MappedTrainer(
            self.task,
            self.model,
            list(state.buffers),
            self.optimizers,
            self.tile,
            self.observed,
            self.device,
            row_by_row=row_by_row,
        )


def choose_trainer(
    setting: Setting,
    compiled: bool | None,
    first: Trial,
    varied: Trial,
    *,
    trusted: bool = False,
) -> tuple[Trainer, str]:
    """The trainer, and in a sentence how it trains and why so. Warns if that is slow.

    Args:
        setting: what it is made for.
        compiled: True for the fastest there is; None for the same, except that nothing is
            given to torch.compile; False for plain operations of torch.
        first: one step with rate 0 from initial weights.
        varied: steps that use all that a step can do.
        trusted: take our own C++ without a comparison, since models of the same kind have had it.

    Raises:
        TrainpilotError: if the task cannot be trained, or its loss is not finite and above 0 at
            the initial weights.
    """
    mapped = setting.mapped(first.state, row_by_row=False)
    try:
        losses = _first_losses(mapped, first)
    except Exception as reason:
        with refusing(setting.task, reason):
            mapped = setting.mapped(first.state, row_by_row=True)
            losses = _first_losses(mapped, first)
        report = (
            f"the model of task '{setting.task.name}' cannot be mapped over runs by "
            f"torch.func.vmap ({first_line(reason)}): its runs are trained one after the "
            "other, which is slow; torch.nn's layers map, in-place changes, branches on "
            "values and random numbers drawn by hand do not"
        )
        warnings.warn(report, stacklevel=4)
        check_losses(setting.task, losses)
        return mapped, report
    check_losses(setting.task, losses)
    if compiled is False:
        return mapped, "inner steps are not compiled, as configured"
    native = _native(setting, mapped, varied, trusted)
    if isinstance(native, ChainTrainer):
        return native, "inner runs are trained by C++ of our own"
    if compiled is None:
        mapped.take_native_update(varied.state, varied.orders, setting.tolerance)
        return (
            mapped,
            f"inner steps are not compiled: {native}, and torch.compile was not asked for",
        )
    missing = missing_compiler(setting.device)
    if missing is None:
        try:
            mapped.compile(varied.state, varied.orders, setting.tolerance)
        except Exception as error:
            missing = f"torch.compile failed ({first_line(error)})"
    if missing is None:
        return mapped, f"inner steps are compiled by torch.compile: {native}"
    report = f"{missing}: inner runs are not compiled and train more slowly"
    warnings.warn(report, stacklevel=4)
    return mapped, report


def _native(
    setting: Setting, mapped: MappedTrainer, varied: Trial, trusted: bool
) -> ChainTrainer | str:
    """The trainer in C++, once it has shown that it does the same, or why there is none."""
    try:
        if setting.mixed_precision:
            raise UntranslatableError("mixed precision was asked for")
        update = native_update(setting.optimizers, setting.model, setting.device)
        trainer = ChainTrainer(setting.task, setting.model.n_params, update, setting.observed)
    except UntranslatableError as error:
        return f"C++ of our own does not cover the task, {error}"
    if not trusted and not _agree(mapped, trainer, varied, setting.tolerance):
        different = "C++ of our own gives other numbers than the model does"
        warnings.warn(f"{different} and is not used", stacklevel=5)
        return different
    return trainer


def _agree(expected: Trainer, given: Trainer, trial: Trial, tolerance: float) -> bool:
    """Whether two trainers do the same: every run, relative to what it is itself."""
    one, other = (_results(trainer, trial) for trainer in (expected, given))
    return one.keys() == other.keys() and all(
        _are_close(other[name], values, _scale(name, values), tolerance)
        for name, values in one.items()
    )


def _are_close(
    given: np.ndarray, expected: np.ndarray, scale: np.ndarray, tolerance: float
) -> bool:
    """Most within the tolerance, all within ten times of it.

    Where an activation is all but zero, rounding decides whether ReLU lets it pass.
    """
    with np.errstate(invalid="ignore"):
        apart = np.abs(given - expected) / (np.abs(expected) + scale)
    apart[(given == expected) | (np.isnan(given) & np.isnan(expected))] = 0
    return bool((apart <= 10 * tolerance).all() and np.mean(apart <= tolerance) > 0.7)


def _scale(name: str, values: np.ndarray) -> np.ndarray:
    """What numbers of a run are small beside; metrics may count, and jump where losses do not."""
    largest: np.ndarray = np.abs(values).max(axis=-1, keepdims=True) + 1e-30
    return np.maximum(50 * largest, 50) if name.startswith("metric") else largest


def _results(trainer: Trainer, trial: Trial) -> dict[str, np.ndarray]:
    """Sums, evaluations and the state behind a trial, `(n_rows, ...)` each."""
    state = trial.state.copied()
    sums = StepSums(*trainer.train(state, trial.orders))
    results = dict(zip(StepSums._fields[:5], sums[:5], strict=True))
    # Products may all but vanish beside the lengths of what is multiplied.
    lengths = (sums.mean_square, sums.parameter_square, sums.update_square)
    for name, product, length in zip(StepSums._fields[5:], sums[5:], lengths, strict=True):
        own = np.sqrt(sums.gradient_square * length)
        results[name] = np.stack([product / np.maximum(own, 1e-30), np.ones_like(own)], axis=-1)
    for where, evaluation in enumerate(trainer.evaluate_observed(state)):
        results[f"loss {where}"] = evaluation.loss[:, None]
        for name, values in evaluation.metrics.items():
            results[f"metric {name} {where}"] = values[:, None]
    # Each run as a whole: where a gradient is all but zero, rounding may turn a sign.
    for number, part in enumerate((state.parameters, *state.moments)):
        results[f"state {number}"] = part.norm(dim=1, keepdim=True).numpy()
    return results


def _first_losses(trainer: Trainer, first: Trial) -> dict[str, float]:
    state = first.state.copied()
    valid, outer_valid = trainer.evaluate_observed(state)
    train = trainer.train(state, first.orders)[0]
    return {"valid": valid.loss[0], "outer_valid": outer_valid.loss[0], "train": train[0, 0]}


def check_losses(task: InnerTask, losses: Mapping[str, float]) -> None:
    """Check the losses at the initial weights, by the name of the split.

    Raises:
        TrainpilotError: if one is not finite and above 0.
    """
    for where, loss in losses.items():
        require(
            bool(np.isfinite(loss)) and loss > 0,
            f"the loss of task '{task.name}' must be finite and above 0 at the initial "
            f"weights on {where}",
            loss,
        )


def refusing(
    task: InnerTask, cause: Exception | None = None
) -> contextlib.AbstractContextManager[None]:
    """Turn whatever a user's model, loss or data raises into one sentence."""
    return explaining(f"the model, loss and data of task '{task.name}' must fit together", cause)
