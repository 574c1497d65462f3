"""The engine: advances many inner runs of one task at once.

All runs' parameters are one tensor `(n_runs, width)`, and so is every moment. An inner step
(forward, backward, update, signals) is mapped over runs with `torch.func`, compiled where that
is wanted and possible, and worked off tile by tile: a tile's rows make all steps of a decision
before the next tile's turn, so that what they need stays near.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainpilot.envs.compiling import (
    OTHER_NUMBERS,
    TensorFunction,
    compile_checked,
    missing_compiler,
)
from trainpilot.envs.data_order import data_order
from trainpilot.envs.evaluating import Evaluator
from trainpilot.envs.fast_update import Seen, compile_update
from trainpilot.envs.flat_model import Buffers, FlatModel
from trainpilot.envs.formula_update import FormulaUpdate, RunState, Update
from trainpilot.envs.hyperparameters import Hyperparameters, IntArray
from trainpilot.envs.inner_step import InnerStep
from trainpilot.envs.optimizers import (
    LEARNING_RATE_SCALES,
    OPTIMIZER_NAMES,
    Moments,
    menu,
    moment_names,
)
from trainpilot.envs.schedule import Schedule, step_keys
from trainpilot.envs.native_update import native_update
from trainpilot.envs.sequential import SequentialTrainer, Untranslatable
from trainpilot.envs.signals import Evaluation, Signals, StepSums, make_signals
from trainpilot.inner_tasks.errors import TrainpilotError, require
from trainpilot.inner_tasks.protocol import InnerTask, Split, check_micro_batch_size

#: Rows in a tile, at most. More no longer spreads a call's fixed cost noticeably thinner, and
#: fewer fit the caches no better, since a tile's state is streamed through them anyway.
TILE = 16


class Engine:
    """Advances `n_runs` inner runs of a task together. `reset` comes first.

    Args:
        task: the inner task.
        n_runs: how many runs, at least 1.
        n_micro_batches: the longest inner budget of a run, in micro-batches, at least 1.
        evaluation_size: most examples of `valid` and of `outer_valid` that an evaluation
            uses, always the same ones (default: 128).
        optimizers: names of those that runs may use; the moments of each take memory and time
            in every run (default: the whole menu).
        max_batch_size: most micro-batches that an update's gradient is the mean of, at
            least 1; above 1, each step costs a little more (default: 1).
        compiled: compile the inner step. Where that fails the engine warns and runs
            eagerly; the results of the two agree up to rounding (default: False).
        mixed_precision: run the model in bfloat16 where `torch.autocast` holds that safe
            (default: False).
        device: where the runs live (default: "cpu").

    Raises:
        TrainpilotError: if a number is out of range, the task cannot be trained, or its
            loss is not finite and above 0 at the initial weights.

    Attributes:
        report: how the runs are trained, and why so: one sentence.
    """

    def __init__(
        self,
        task: InnerTask,
        n_runs: int,
        *,
        n_micro_batches: int,
        evaluation_size: int = 128,
        optimizers: Sequence[str] = OPTIMIZER_NAMES,
        max_batch_size: int = 1,
        compiled: bool = False,
        mixed_precision: bool = False,
        device: str = "cpu",
    ) -> None:
        require(n_runs >= 1, "n_runs must be at least 1", n_runs)
        require(n_micro_batches >= 1, "n_micro_batches must be at least 1", n_micro_batches)
        require(evaluation_size >= 1, "evaluation_size must be at least 1", evaluation_size)
        require(max_batch_size >= 1, "max_batch_size must be at least 1", max_batch_size)
        check_micro_batch_size(task.name, task.micro_batch_size, len(task.splits.train.inputs))
        self.task = task
        self.n_runs = n_runs
        self.n_micro_batches = n_micro_batches
        self._device = _device(device)
        self._max_batch_size = max_batch_size
        # How far compiled and eager numbers may lie apart, relative to the largest.
        self._tolerance = 0.05 if mixed_precision else 1e-3
        self._menu = menu(optimizers)
        # A graphics processor wants all rows at once, a core as many as stay near it.
        n_tiles = -(-n_runs // TILE) if self._device.type == "cpu" else 1
        self._tile = -(-n_runs // n_tiles)
        self._n_rows = n_tiles * self._tile
        self._train = _on(task.splits.train, self._device)
        with _refusing(task):
            self._model = FlatModel(task, mixed_precision=mixed_precision)
            self._allocate()
            self._evaluator = Evaluator(
                task, self._model, list(self._buffers), evaluation_size, self._device
            )
        self._start(compiled)

    def _allocate(self) -> None:
        def zeros() -> Tensor:
            return torch.zeros(
                self._n_rows, self._model.width, dtype=self._model.dtype, device=self._device
            )

        self._parameters = zeros()
        self._moments: Moments = {name: zeros() for name in moment_names(self._menu)}
        self._accumulated = zeros() if self._max_batch_size > 1 else None
        # Rows that only fill up the last tile have weights of seed 0, never zeros, on which a
        # model might fail.
        parameters, buffers = self._model.initial_states([0])
        self._parameters[:] = parameters.to(self._device)
        self._buffers: Buffers = {
            name: value.repeat(self._n_rows, *[1] * (value.ndim - 1)).to(self._device)
            for name, value in buffers.items()
        }
        # Two numbers a row and example would be more than a small model's parameters.
        self._order = torch.zeros(
            (self._n_rows, self.n_micro_batches, self.task.micro_batch_size), dtype=torch.int32
        )
        self._seeds = np.zeros(self.n_runs, dtype=np.int64)
        self._budgets = np.full(self.n_runs, self.n_micro_batches)
        self._position = np.zeros(self.n_runs, dtype=np.int64)
        self._schedule = Schedule(self.n_runs)
        self._mean_square = np.zeros(self.n_runs)

    @property
    def position(self) -> IntArray:
        """Micro-batches that each run has processed, `(n_runs,)`."""
        return self._position.copy()

    @property
    def budgets(self) -> IntArray:
        """Micro-batches that each run may process, `(n_runs,)`."""
        return self._budgets.copy()

    def reset(
        self, rows: Sequence[int], seeds: Sequence[int], budgets: Sequence[int] | None = None
    ) -> None:
        """Start runs anew in the given rows; the others are left as they are.

        Args:
            rows: which rows.
            seeds: a seed for each of these rows; it fixes the run's initial weights, its
                data order and its dropout.
            budgets: micro-batches of each of these rows (default: `n_micro_batches`).
        """
        rows = list(rows)
        if not rows:
            return
        for budget in budgets or ():
            require(
                1 <= budget <= self.n_micro_batches,
                f"a run's budget must lie between 1 and {self.n_micro_batches} micro-batches",
                budget,
            )
        parameters, buffers = self._model.initial_states(seeds)
        self._parameters[rows] = parameters.to(self._device)
        for name, value in buffers.items():
            self._buffers[name][rows] = value.to(self._device)
        for moment in self._moments.values():
            moment[rows] = 0
        for row, seed in zip(rows, seeds, strict=True):
            self._order[row] = data_order(
                seed, len(self._train.inputs), self.n_micro_batches, self.task.micro_batch_size
            )
        self._seeds[rows] = seeds
        self._budgets[rows] = self.n_micro_batches if budgets is None else budgets
        self._position[rows] = 0
        self._schedule.reset(rows)
        self._mean_square[rows] = 0

    def advance(self, hyperparameters: Hyperparameters, n_micro_batches: int) -> Signals:
        """Train every run on its next micro-batches.

        Args:
            hyperparameters: of every run, `(n_runs,)` each.
            n_micro_batches: how many; no run may pass its budget.

        Returns:
            The signals of these micro-batches, `(n_runs, n_micro_batches)` each.

        Raises:
            TrainpilotError: if a run would pass its budget, or asks for a larger batch than
                `max_batch_size` or another optimizer than those it may use.
        """
        remaining = int((self._budgets - self._position).min())
        require(
            1 <= n_micro_batches <= remaining,
            f"the runs can train on 1 to {remaining} more micro-batches",
            n_micro_batches,
        )
        largest = int(hyperparameters.batch_size.max())
        require(
            largest <= self._max_batch_size,
            f"batch_size must be at most max_batch_size, {self._max_batch_size}",
            largest,
        )
        used = np.unique(hyperparameters.optimizer)
        require(
            set(used) <= set(self._menu),
            "the runs may use the optimizers "
            + ", ".join(OPTIMIZER_NAMES[index] for index in self._menu),
            ", ".join(OPTIMIZER_NAMES[index] for index in used),
        )
        plan = self._schedule.plan(hyperparameters, n_micro_batches)
        # Rows that only fill up the last tile train on the first example and never update.
        padding = [(0, self._n_rows - self.n_runs), (0, 0)]
        places = np.pad(self._position[:, None] + np.arange(n_micro_batches), padding)
        indices = self._order[np.arange(self._n_rows)[:, None], places]
        keys = np.pad(step_keys(self._seeds, self._position, n_micro_batches), padding)
        scalars = np.pad(plan.scalars, [*padding, (0, 0)])
        if self._trainer is not None:
            runs = slice(self.n_runs)
            sums = self._trainer.train(
                self._state(runs), self._train, indices[runs], plan.scalars
            )
        else:
            with torch.no_grad():
                parts = [
                    self._advance_tile(
                        rows,
                        self._steps_first(indices[rows].long()),
                        self._steps_first(torch.from_numpy(scalars[rows])),
                        self._steps_first(torch.from_numpy(keys[rows])),
                    )
                    for rows in self._tiles_rows()
                ]
            sums = np.concatenate(parts, axis=1)[:, : self.n_runs]
        self._position += n_micro_batches
        step_sums = StepSums(*sums)
        before, self._mean_square = self._mean_square, step_sums.mean_square[:, -1]
        return make_signals(step_sums, before, plan.mean_correction, plan.updated)

    def _steps_first(self, values: Tensor) -> Tensor:
        """Of `(n_rows, n_steps, ...)`, a contiguous tensor for each step, on the device."""
        if values.is_floating_point():
            values = values.to(self._model.dtype)
        return values.transpose(0, 1).contiguous().to(self._device)

    def _advance_tile(
        self, rows: slice, indices: Tensor, scalars: Tensor, keys: Tensor
    ) -> np.ndarray:
        """All steps of a decision for one tile: `StepSums`, `(8, n_rows, n_steps)`."""
        state = self._state(rows)
        move = self._update.on(state)
        buffers = [value[rows] for value in self._buffers.values()]
        losses, sums = [], []
        for step in range(len(indices)):
            # Not inside the compiled step: there, examples are gathered number by number.
            inputs, targets = (_gather(part, indices[step]) for part in self._train)
            loss, *pieces = self._gradients(
                state.parameters, inputs, targets, keys[step], *buffers
            )
            sums.append(move(pieces, scalars[step]))
            losses.append(loss)
        both = torch.cat([torch.stack(losses)[:, None].double(), torch.stack(sums)], dim=1)
        return both.permute(1, 2, 0).cpu().numpy()

    def _state(self, rows: slice) -> RunState:
        return RunState(
            self._parameters[rows],
            [moment[rows] for moment in self._moments.values()],
            None if self._accumulated is None else self._accumulated[rows],
        )

    def _tiles_rows(self) -> Iterator[slice]:
        for first in range(0, self._n_rows, self._tile):
            yield slice(first, first + self._tile)

    def evaluate(self) -> tuple[Evaluation, Evaluation]:
        """Evaluate every run on the observed parts of `valid` and `outer_valid`."""
        if self._trainer is not None:
            parameters = self._parameters[: self.n_runs]
            valid, outer_valid = self._evaluator.observed_splits
            return (
                Evaluation(*self._trainer.evaluate(parameters, valid)),
                Evaluation(*self._trainer.evaluate(parameters, outer_valid)),
            )
        return self._evaluator.observed(self._tiles())

    def evaluate_split(self, split: Split) -> Evaluation:
        """Evaluate every run on a split, in evaluation mode."""
        return self._evaluator.split(self._tiles(), _on(split, self._device))

    def _tiles(self) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """Of each tile: how many of its rows are runs, their parameters and buffers."""
        for first in range(0, self._n_rows, self._tile):
            rows = slice(first, first + self._tile)
            buffers = [value[rows] for value in self._buffers.values()]
            yield min(self._tile, self.n_runs - first), self._parameters[rows], buffers

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The weights of one run, as `task.make_model().load_state_dict` takes them."""
        buffers = {name: value[row].cpu() for name, value in self._buffers.items()}
        return self._model.state_dict(self._parameters[row].cpu(), buffers)

    def _start(self, compiled: bool) -> None:
        """Find out how the task can be trained; refuse it at once and in words if it cannot."""
        self.report = "inner steps are not compiled, as configured"
        self._trainer: SequentialTrainer | None = None
        reason = self._probe(row_by_row=False)
        if reason is not None:
            with _refusing(self.task, reason):
                failed = self._probe(row_by_row=True)
                if failed is not None:
                    raise failed
            self._slow(
                f"the model of task '{self.task.name}' cannot be mapped over runs by "
                f"torch.func.vmap ({_first_line(reason)}): its runs are trained one after the "
                "other, which is slow; torch.nn's layers map, in-place changes, branches on "
                "values and random numbers drawn by hand do not"
            )
        elif compiled and self._translate():
            self.report = "inner steps are compiled"
        elif compiled:
            missing = missing_compiler(self._device) or self._compile()
            if missing is None:
                self.report = "inner steps are compiled"
            else:
                self._slow(f"{missing}: inner runs are not compiled and train more slowly")
        self._check_start()

    def _slow(self, report: str) -> None:
        self.report = report
        warnings.warn(report, stacklevel=4)

    def _probe(self, *, row_by_row: bool) -> Exception | None:
        """Take the eager functions; whatever the first step and evaluation raise."""
        step = InnerStep(self.task, self._model, list(self._buffers), row_by_row=row_by_row)
        self._gradients: TensorFunction = step.gradients
        self._update: Update = FormulaUpdate(self._model, self._menu)
        self._evaluator.map_rows(not row_by_row)
        try:
            self._first_step()
            self.evaluate()
        except Exception as error:
            return error
        return None

    def _first_step(self) -> Signals:
        """A first step with rate 0, from the weights of seed 0."""
        self.reset(range(self.n_runs), [0] * self.n_runs)
        name = OPTIMIZER_NAMES[self._menu[0]]
        still = Hyperparameters.full(self.n_runs, learning_rate=0.0, optimizer=name)
        signals = self.advance(still, 1)
        self.reset(range(self.n_runs), [0] * self.n_runs)
        return signals

    def _varied_steps(self) -> None:
        """Steps that use all that a step can do, for the compiled functions to be judged by."""
        self.reset(range(self.n_runs), range(self.n_runs))
        optimizer = np.resize(self._menu, self.n_runs)
        settings = replace(
            Hyperparameters.full(
                self.n_runs,
                weight_decay=0.1,
                gradient_clip=1.0,
                batch_size=min(2, self._max_batch_size),
            ),
            optimizer=optimizer,
            learning_rate=1e-3 * np.array(LEARNING_RATE_SCALES)[optimizer],
        )
        self.advance(settings, min(4, self.n_micro_batches))

    def _check_start(self) -> None:
        with _refusing(self.task):
            losses = [split.loss[0] for split in self.evaluate()]
            losses.append(self._first_step().train_loss[0, 0])
        for where, loss in zip(("valid", "outer_valid", "train"), losses, strict=True):
            require(
                bool(np.isfinite(loss)) and loss > 0,
                f"the loss of task '{self.task.name}' must be finite and above 0 at the initial "
                f"weights on {where}",
                loss,
            )

    def _translate(self) -> bool:
        native = native_update(self._menu, self._model.sizes)
        try:
            trainer = SequentialTrainer(self.task, native)
        except Untranslatable as error:
            print(error)
            return False
        self._trainer = trainer
        return True

    def _compile(self) -> str | None:
        """Compile the functions now, or say why they stay as they are."""
        eager = self._gradients, self._update
        try:
            seen = Seen(*eager)
            self._gradients, self._update = seen.gradients, seen
            self._varied_steps()
            expected = self.evaluate()
            self._gradients = compile_checked(eager[0], seen.examples, self._tolerance)
            self._update = compile_update(self._model, self._menu, seen, self._tolerance)
            self._evaluator.compile(next(self._tiles()))
            for one, other in zip(expected, self.evaluate(), strict=True):
                if not np.allclose(one.loss, other.loss, rtol=self._tolerance, equal_nan=True):
                    raise ArithmeticError(OTHER_NUMBERS)
            self._first_step()
        except Exception as error:
            self._gradients, self._update = eager
            self._evaluator.map_rows(True)
            return f"torch.compile failed ({_first_line(error)})"
        return None


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainpilotError(
            f"the device must be 'cpu', or 'cuda' where there is one; given: {name} "
            f"({_first_line(error)})"
        ) from error
    return device


def _gather(examples: Tensor, indices: Tensor) -> Tensor:
    """`examples[indices]`, in a fraction of the time."""
    chosen = examples.index_select(0, indices.view(-1))
    return chosen.view(*indices.shape, *examples.shape[1:])


def _on(split: Split, device: torch.device) -> Split:
    return Split(split.inputs.to(device), split.targets.to(device))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _refusing(task: InnerTask, mapping: Exception | None = None) -> Iterator[None]:
    """Turn whatever a user's model, loss or data raises into one sentence."""
    try:
        yield
    except TrainpilotError:
        raise
    except Exception as error:
        raise TrainpilotError(
            f"the model, loss and data of task '{task.name}' must fit together; it failed with: "
            f"{_first_line(error)}"
        ) from (mapping or error)
