"""The engine: advances many inner runs of one task at once.

All runs' parameters are one tensor `(n_runs, n_params)`, and so is every moment. An inner step
(forward, backward, update, signals) is one function over all runs, mapped with `torch.func` and,
where a C++ compiler is found, compiled.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError
from torch.func import grad_and_value, vmap

from trainpilot.envs.data_order import data_order
from trainpilot.envs.flat_model import Buffers, FlatModel
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.optimizers import MOMENT_NAMES, Moments, UpdateContext, update
from trainpilot.envs.signals import Evaluation, Signals, step_signals
from trainpilot.inner_tasks.errors import TrainpilotError, require
from trainpilot.inner_tasks.protocol import InnerTask, Split

# Each engine compiles its own step; beyond the limit torch would silently run the rest eagerly.
torch._dynamo.config.recompile_limit = 256


class _StepInput(NamedTuple):
    """What a step reads and does not change; `(n_runs, 1)` but for the indices."""

    indices: Tensor
    learning_rate: Tensor
    weight_decay: Tensor
    momentum: Tensor
    optimizer: Tensor


class _StepOutput(NamedTuple):
    """The state after a step, and its signals `(n_runs, n_signals)`."""

    parameters: Tensor
    moments: Moments
    steps: Tensor
    signals: Tensor


_Step = Callable[[Tensor, Buffers, Moments, Tensor, _StepInput], _StepOutput]


class Engine:
    """Advances `n_runs` inner runs of a task together. `reset` comes first.

    Args:
        task: the inner task.
        n_runs: how many runs, at least 1.
        n_micro_batches: the inner budget of a run, in micro-batches, at least 1.
        evaluation_size: most examples of `valid` and of `outer_valid` that an evaluation
            uses, always the same ones (default: 128).
        compiled: compile the inner step. Without a C++ compiler the engine warns and runs
            eagerly; the results of the two agree up to rounding (default: False).

    Raises:
        TrainpilotError: if a number is out of range, the task cannot be trained, or its
            loss is not finite and above 0 at the initial weights.
    """

    def __init__(
        self,
        task: InnerTask,
        n_runs: int,
        *,
        n_micro_batches: int,
        evaluation_size: int = 128,
        compiled: bool = False,
    ) -> None:
        require(n_runs >= 1, "n_runs must be at least 1", n_runs)
        require(n_micro_batches >= 1, "n_micro_batches must be at least 1", n_micro_batches)
        require(evaluation_size >= 1, "evaluation_size must be at least 1", evaluation_size)
        self.task = task
        self.n_runs = n_runs
        self.n_micro_batches = n_micro_batches
        n_train = len(task.splits.train.inputs)
        require(
            1 <= task.micro_batch_size <= n_train,
            f"micro_batch_size of task '{task.name}' must lie between 1 and {n_train}, "
            "its training examples",
            task.micro_batch_size,
        )
        self._observed = [
            _sample(split, evaluation_size)
            for split in (task.splits.valid, task.splits.outer_valid)
        ]
        with _refusing(task):
            self._model = FlatModel(task)
            self._allocate()
        # Dropout draws from torch's global generator, which a step then seeds for itself.
        self._draws = any(
            isinstance(module, nn.modules.dropout._DropoutNd)
            for module in self._model.new_model(0).modules()
        )
        self._step = self._make_step()
        self._probe()
        if compiled:
            self._compile()

    def _allocate(self) -> None:
        n_runs, n_params = self.n_runs, self._model.n_params
        self._parameters = torch.zeros(n_runs, n_params)
        self._moments: Moments = {name: torch.zeros(n_runs, n_params) for name in MOMENT_NAMES}
        self._buffers: Buffers = {
            name: value.repeat(n_runs, *[1] * value.ndim)
            for name, value in self._model.initial_state(0)[1].items()
        }
        self._steps = torch.zeros(n_runs, 1)
        self._order = torch.zeros(
            (n_runs, self.n_micro_batches, self.task.micro_batch_size), dtype=torch.int64
        )
        self._seeds = np.zeros(n_runs, dtype=np.int64)
        self._position = np.zeros(n_runs, dtype=np.int64)

    @property
    def position(self) -> np.ndarray:
        """Micro-batches that each run has processed, `(n_runs,)`."""
        return self._position.copy()

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Start runs anew in the given rows; the others are left as they are.

        Args:
            rows: which rows.
            seeds: a seed for each of these rows; it fixes the run's initial weights and its
                data order.
        """
        for row, seed in zip(rows, seeds, strict=True):
            parameters, buffers = self._model.initial_state(seed)
            self._parameters[row] = parameters
            for name, value in buffers.items():
                self._buffers[name][row] = value
            self._order[row] = data_order(
                seed,
                len(self.task.splits.train.inputs),
                self.n_micro_batches,
                self.task.micro_batch_size,
            )
            for moment in self._moments.values():
                moment[row] = 0
            self._steps[row] = 0
            self._seeds[row] = seed
            self._position[row] = 0

    def advance(self, hyperparameters: Hyperparameters, n_micro_batches: int) -> Signals:
        """Train every run on its next micro-batches, one update for each.

        Args:
            hyperparameters: of every run, `(n_runs,)` each.
            n_micro_batches: how many; no run may pass its budget.

        Returns:
            The signals of these steps, `(n_runs, n_micro_batches)` each.

        Raises:
            TrainpilotError: if a run would pass its budget.
        """
        remaining = int(self.n_micro_batches - self._position.max())
        require(
            1 <= n_micro_batches <= remaining,
            f"the runs can train on 1 to {remaining} more micro-batches",
            n_micro_batches,
        )

        def column(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32).unsqueeze(1)

        learning_rate = column(hyperparameters.learning_rate)
        weight_decay = column(hyperparameters.weight_decay)
        momentum = column(hyperparameters.momentum)
        optimizer = torch.as_tensor(hyperparameters.optimizer).unsqueeze(1)
        rows = torch.arange(self.n_runs)
        signals = []
        with torch.no_grad(), self._seeded():
            for _ in range(n_micro_batches):
                indices = self._order[rows, torch.from_numpy(self._position)]
                given = _StepInput(indices, learning_rate, weight_decay, momentum, optimizer)
                after = self._step(
                    self._parameters, self._buffers, self._moments, self._steps, given
                )
                self._parameters, self._moments, self._steps = after[:3]
                signals.append(after.signals)
                self._position += 1
        # (n_signals, n_runs, n_micro_batches)
        stacked = torch.stack(signals, dim=2).permute(1, 0, 2).double().numpy()
        return Signals(*stacked)

    def evaluate(self) -> tuple[Evaluation, Evaluation]:
        """Evaluate every run on the observed parts of `valid` and `outer_valid`."""
        valid, outer_valid = (self.evaluate_split(split) for split in self._observed)
        return valid, outer_valid

    def evaluate_split(self, split: Split) -> Evaluation:
        """Evaluate every run on a split, in evaluation mode."""
        with torch.no_grad():
            loss, metrics = vmap(self._evaluate_one, in_dims=(0, 0, None))(
                self._parameters, self._buffers, split
            )
        return Evaluation(
            loss.double().numpy(),
            {name: value.double().numpy() for name, value in metrics.items()},
        )

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The weights of one run, as `task.make_model().load_state_dict` takes them."""
        buffers = {name: value[row] for name, value in self._buffers.items()}
        return self._model.state_dict(self._parameters[row], buffers)

    def _make_step(self) -> _Step:
        train = self.task.splits.train
        gradients = vmap(
            grad_and_value(self._loss_one), randomness="different" if self._draws else "error"
        )

        def step(
            parameters: Tensor,
            buffers: Buffers,
            moments: Moments,
            steps: Tensor,
            given: _StepInput,
        ) -> _StepOutput:
            inputs, targets = train.inputs[given.indices], train.targets[given.indices]
            gradient, loss = gradients(parameters, buffers, inputs, targets)
            steps = steps + 1
            context = UpdateContext(gradient, given.momentum, steps)
            direction, after = update(moments, context, given.optimizer)
            change = -given.learning_rate * (direction + given.weight_decay * parameters)
            signals = step_signals(
                loss,
                gradient,
                parameters,
                change,
                moments["exp_avg"],
                after["exp_avg"],
                (1 - given.momentum**steps).squeeze(1),
            )
            return _StepOutput(parameters + change, after, steps, signals)

        return step

    def _loss_one(self, flat: Tensor, buffers: Buffers, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.task.loss(self._model.train_outputs(flat, buffers, inputs), targets)

    def _evaluate_one(
        self, flat: Tensor, buffers: Buffers, split: Split
    ) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = self._model.eval_outputs(flat, buffers, split.inputs)
        metrics = self.task.metrics(outputs, split.targets)
        return self.task.loss(outputs, split.targets), metrics

    def _seeded(self) -> contextlib.AbstractContextManager[None]:
        """Where the model draws random numbers: a generator of the runs' own, restored after."""
        if not self._draws:
            return contextlib.nullcontext()
        return _seeded_torch([*self._seeds.tolist(), *self._position.tolist()])

    def _probe(self) -> None:
        """Refuse a task that cannot be trained at once and in words, not in mid-run."""
        with _refusing(self.task):
            self.reset(range(self.n_runs), [0] * self.n_runs)
            losses = [split.loss[0] for split in self.evaluate()]
            losses.append(float(self._first_step().signals[0, 0]))
        for where, loss in zip(("valid", "outer_valid", "train"), losses, strict=True):
            require(
                bool(np.isfinite(loss)) and loss > 0,
                f"the loss of task '{self.task.name}' must be finite and above 0 at the initial "
                f"weights on {where}",
                loss,
            )

    def _first_step(self) -> _StepOutput:
        """A step whose result is thrown away; a reset must follow, for the buffers."""
        # Tensors like those of `advance`, in strides and aliases, or it would compile again.
        rate, decay, momentum = (torch.zeros(self.n_runs, 1) for _ in range(3))
        optimizer = torch.zeros(self.n_runs, 1, dtype=torch.int64)
        given = _StepInput(self._order[:, 0].contiguous(), rate, decay, momentum, optimizer)
        with torch.no_grad(), self._seeded():
            return self._step(self._parameters, self._buffers, self._moments, self._steps, given)

    def _compile(self) -> None:
        """Compile the step now, or say why it stays as it is."""
        eager = self._step
        if shutil.which("c++") is None and shutil.which("g++") is None:
            reason = "no C++ compiler was found"
        else:
            self._step = cast("_Step", torch.compile(eager, dynamic=False))
            try:
                self._first_step()
            except (TorchDynamoException, InductorError) as error:
                self._step = eager
                reason = f"torch.compile failed ({str(error).strip().splitlines()[0]})"
            else:
                return
        warnings.warn(f"{reason}: inner runs are not compiled and train more slowly", stacklevel=3)


def _sample(split: Split, size: int) -> Split:
    """Up to `size` examples of a split, drawn at random but always the same ones.

    Not the first ones: text comes in its order, and a user's examples may be sorted by class.
    """
    n_examples = len(split.inputs)
    chosen = torch.randperm(n_examples, generator=torch.Generator().manual_seed(0))[:size]
    return Split(split.inputs[chosen], split.targets[chosen])


@contextlib.contextmanager
def _refusing(task: InnerTask) -> Iterator[None]:
    """Turn whatever a user's model, loss or data raises into one sentence."""
    try:
        yield
    except TrainpilotError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainpilotError(
            f"the model, loss and data of task '{task.name}' must fit together and be mappable "
            f"by torch.func.vmap; it failed with: {reason}"
        ) from error


@contextlib.contextmanager
def _seeded_torch(entropy: Sequence[int]) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        yield
