"""The engine: advances many inner runs of one task at once.

All runs' parameters are one tensor `(n_runs, width)`, and so is every moment. The engine keeps
them, counts, and says what each run does next; a trainer does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainpilot.envs.data_order import data_order
from trainpilot.envs.devices import device_of
from trainpilot.envs.evaluating import observed_sample
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters, IntArray
from trainpilot.envs.optimizers import (
    LEARNING_RATE_SCALES,
    OPTIMIZER_NAMES,
    menu,
    moment_names,
)
from trainpilot.envs.run_keeper import RunKeeper
from trainpilot.envs.schedule import STEP_SCALARS, Plan, step_keys
from trainpilot.envs.signals import Evaluation, Signals, StepSums, make_signals
from trainpilot.envs.starting import Setting, Trial, choose_trainer, refusing
from trainpilot.envs.tiles import tile_of
from trainpilot.envs.trainer import Orders, RunState
from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.protocol import InnerTask, Split, check_micro_batch_size


class Engine(RunKeeper):
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
        compiled: True for the fastest way there is: chains of common layers are trained by
            C++ of our own, other models are compiled by torch.compile, for which some ten
            seconds go at the start; where that fails the engine warns. None for the same
            without torch.compile. False for plain operations of torch. The results agree up
            to rounding (default: None).
        mixed_precision: run the model in bfloat16 where `torch.autocast` holds that safe
            (default: False).
        device: where the runs live (default: "cpu").
        trusted: do not hold the fast trainer against eager torch at the start, since it has been
            for models of the same kind (default: False).

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
        compiled: bool | None = None,
        mixed_precision: bool = False,
        device: str = "cpu",
        trusted: bool = False,
    ) -> None:
        require(n_runs >= 1, "n_runs must be at least 1", n_runs)
        require(n_micro_batches >= 1, "n_micro_batches must be at least 1", n_micro_batches)
        require(evaluation_size >= 1, "evaluation_size must be at least 1", evaluation_size)
        require(max_batch_size >= 1, "max_batch_size must be at least 1", max_batch_size)
        check_micro_batch_size(task.name, task.micro_batch_size, len(task.splits.train.inputs))
        self.task = task
        self.n_micro_batches = n_micro_batches
        self._device = device_of(device)
        self._max_batch_size = max_batch_size
        self._menu = menu(optimizers)
        # A graphics processor wants all rows at once, a core as many as stay near it.
        on_core = self._device.type == "cpu"
        tile = tile_of(task, n_runs, to_compile=compiled is True) if on_core else n_runs
        with refusing(task):
            self._model = FlatModel(task, mixed_precision=mixed_precision)
            super().__init__(self._new_state(-(-n_runs // tile) * tile), n_runs)
            observed = (
                observed_sample(task.splits.valid, evaluation_size),
                observed_sample(task.splits.outer_valid, evaluation_size),
            )
        # Two numbers a row and example would be more than a small model's parameters.
        self._order = torch.zeros(
            (self._n_rows, n_micro_batches, task.micro_batch_size), dtype=torch.int32
        )
        self._seeds = np.zeros(n_runs, dtype=np.int64)
        self._budgets = np.full(n_runs, n_micro_batches)
        self._position = np.zeros(n_runs, dtype=np.int64)
        setting = Setting(
            task, self._model, self._menu, tile, observed, self._device, mixed_precision
        )
        self._trainer, self.report = choose_trainer(
            setting, compiled, self._first_trial(tile), self._varied_trial(tile), trusted=trusted
        )
        self.reset(range(n_runs), [0] * n_runs)
        self.evaluate()

    def _new_state(self, n_rows: int) -> RunState:
        def zeros() -> Tensor:
            return torch.zeros(
                n_rows, self._model.width, dtype=self._model.dtype, device=self._device
            )

        # Rows that only fill up the last tile have weights of seed 0, never zeros, on which a
        # model might fail.
        initial, buffers = self._model.initial_states([0])
        parameters = zeros()
        parameters[:] = initial.to(self._device)
        return RunState(
            parameters,
            [zeros() for _ in moment_names(self._menu)],
            zeros() if self._max_batch_size > 1 else None,
            {
                name: value.repeat(n_rows, *[1] * (value.ndim - 1)).to(self._device)
                for name, value in buffers.items()
            },
        )

    def _first_trial(self, n_runs: int) -> Trial:
        """A first step with rate 0, from the weights of seed 0."""
        name = OPTIMIZER_NAMES[self._menu[0]]
        still = Hyperparameters.full(self.n_runs, learning_rate=0.0, optimizer=name)
        return self._trial(n_runs, [0] * self.n_runs, still, 1)

    def _varied_trial(self, n_runs: int) -> Trial:
        """Steps that use all that a step can do, every optimizer in every run."""
        # The first run accumulates where that is allowed: there may be no other.
        largest = min(2, self._max_batch_size)
        settings = replace(
            Hyperparameters.full(self.n_runs, weight_decay=0.1, gradient_clip=1.0),
            optimizer=np.full(self.n_runs, self._menu[0]),
            batch_size=largest - np.arange(self.n_runs) % largest,
        )
        n_steps = min(2 * len(self._menu), self.n_micro_batches)
        trial = self._trial(n_runs, range(self.n_runs), settings, n_steps)
        rows, steps = np.indices(trial.orders.scalars.shape[:2])
        # Two steps each: runs whose batches are two micro-batches update at the second.
        used = np.array(self._menu)[(rows + steps // 2) % len(self._menu)]
        trial.orders.scalars[:, :, STEP_SCALARS.index("optimizer")] = used
        rates = 1e-3 * np.array(LEARNING_RATE_SCALES)[used]
        trial.orders.scalars[:, :, STEP_SCALARS.index("learning_rate")] = rates
        return trial

    def _trial(
        self, n_runs: int, seeds: Sequence[int], settings: Hyperparameters, n_steps: int
    ) -> Trial:
        """What the first runs do with these settings, from their beginning."""
        rows = range(min(n_runs, self.n_runs))
        self.reset(rows, seeds[: len(rows)])
        orders, _ = self._next_orders(settings, n_steps)
        self._schedule.reset(range(self.n_runs))
        part = slice(n_runs)
        return Trial(self._state.rows(part).copied(), orders.rows(part))

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
        self._state.parameters[rows] = parameters.to(self._device)
        for name, value in buffers.items():
            self._state.buffers[name][rows] = value.to(self._device)
        for moment in self._state.moments:
            moment[rows] = 0
        for row, seed in zip(rows, seeds, strict=True):
            self._order[row] = data_order(
                seed,
                len(self.task.splits.train.inputs),
                self.n_micro_batches,
                self.task.micro_batch_size,
            )
        self._seeds[rows] = seeds
        self._budgets[rows] = self.n_micro_batches if budgets is None else budgets
        self._position[rows] = 0
        self._schedule.reset(rows)
        self._mean_square[rows] = 0
        self._begin_averages(rows)

    def advance(
        self,
        hyperparameters: Hyperparameters,
        n_micro_batches: int,
        learning_rates: FloatArray | None = None,
    ) -> Signals:
        """Train every run on its next micro-batches.

        Args:
            hyperparameters: of every run, `(n_runs,)` each.
            n_micro_batches: how many; no run may pass its budget.
            learning_rates: of each micro-batch, `(n_runs, n_micro_batches)` (default: the
                hyperparameters' throughout).

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
        orders, plan = self._next_orders(hyperparameters, n_micro_batches, learning_rates)
        if self._trainer.takes_any_rows and self._n_rows > self.n_runs:
            runs = slice(self.n_runs)
            sums = self._trainer.train(self._state.rows(runs), orders.rows(runs))
        else:
            sums = self._trainer.train(self._state, orders)[:, : self.n_runs]
        self._position += n_micro_batches
        step_sums = StepSums(*sums)
        mean_square = np.column_stack([self._mean_square, step_sums.mean_square])
        before, self._mean_square = mean_square[:, :-1], mean_square[:, -1]
        return make_signals(step_sums, before, plan.mean_correction, plan.updated)

    def _next_orders(
        self,
        hyperparameters: Hyperparameters,
        n_steps: int,
        learning_rates: FloatArray | None = None,
    ) -> tuple[Orders, Plan]:
        """What all rows do next; it counts as done."""
        plan = self._schedule.plan(hyperparameters, n_steps, learning_rates)
        keys = step_keys(self._seeds, self._position, n_steps)
        first = int(self._position[0])
        if (self._position == first).all():
            indices = self._order[:, first : first + n_steps]
        else:
            rows = np.arange(self.n_runs)[:, None]
            indices = self._order[rows, self._position[:, None] + np.arange(n_steps)]
        orders = Orders(indices, plan.scalars, keys)
        return self._padded(orders) if self._n_rows > self.n_runs else orders, plan

    def _padded(self, orders: Orders) -> Orders:
        """With rows that only fill up the last tile: they train on some example, without update."""
        more = [(0, self._n_rows - self.n_runs), (0, 0)]
        indices = orders.indices[: self.n_runs].numpy()
        return Orders(
            torch.from_numpy(np.pad(indices, [*more, (0, 0)])),
            np.pad(orders.scalars, [*more, (0, 0)]),
            np.pad(orders.keys, more),
        )

    @property
    def parameters(self) -> Tensor:
        """Weights of every run, `(n_runs, n_params)`, a view: writing to it moves the runs."""
        return self._state.parameters[: self.n_runs, : self._model.n_params]

    def gradients(self) -> tuple[Tensor, Signals]:
        """Gradients on every run's next micro-batch, for optimizers that are not in the menu.

        The micro-batch counts as processed and buffers such as running statistics go on; the
        weights stay as they are, for the caller to move (`parameters`). Moments are overwritten,
        so this is not to be mixed with `advance` in one run.

        Returns:
            Gradients of the mean loss, `(n_runs, n_params)`, which the next step overwrites;
            and the signals of the micro-batch, `(n_runs, 1)` each.

        Raises:
            TrainpilotError: if a run's budget is spent, or the runs may not use "sgd".
        """
        # SGD without momentum leaves the gradient in its buffer, and with rate 0 all else as it is.
        still = Hyperparameters.full(self.n_runs, learning_rate=0.0, momentum=0.0, optimizer="sgd")
        signals = self.advance(still, 1)
        buffer = self._state.moments[moment_names(self._menu).index("momentum_buffer")]
        return buffer[: self.n_runs, : self._model.n_params], signals

    def evaluate(self, rows: Sequence[int] | None = None) -> tuple[Evaluation, Evaluation]:
        """Evaluate every run on the observed parts of `valid` and `outer_valid`.

        Args:
            rows: only these need to be evaluated anew since the last time (default: all).
        """
        if rows is None or len(rows) == self.n_runs or not self._trainer.takes_any_rows:
            valid, outer_valid = self._trainer.evaluate_observed(self._seen)
            self._evaluated = valid.first(self.n_runs), outer_valid.first(self.n_runs)
        else:
            anew = self._trainer.evaluate_observed(self._seen.chosen(rows))
            pairs = zip(self._evaluated, anew, strict=True)
            valid, outer_valid = (before.replaced(rows, after) for before, after in pairs)
            self._evaluated = valid, outer_valid
        return self._evaluated

    def evaluate_split(self, split: Split, rows: Sequence[int] | None = None) -> Evaluation:
        """Evaluate runs on a split, in evaluation mode.

        Args:
            split: like those of the task.
            rows: which, in their order (default: all).
        """
        if rows is not None:
            return self._trainer.evaluate(self._seen.chosen(rows), split)
        return self._trainer.evaluate(self._seen, split).first(self.n_runs)

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The weights of one run, or their average, as a model's `load_state_dict` takes them."""
        seen = self._seen
        buffers = {name: value[row].cpu() for name, value in seen.buffers.items()}
        return self._model.state_dict(seen.parameters[row].cpu(), buffers)
