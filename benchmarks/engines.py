"""Engines, and what the benchmarks let them do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, OPTIMIZER_NAMES, optimizer_index
from trainpilot.inner_tasks.protocol import InnerTask

#: Micro-batches of a decision.
STEPS = 10
#: How reports of engines begin that train as fast as they can.
_FAST = ("inner runs are trained by C++", "inner steps are compiled by torch.compile")


def new_engine(
    task: InnerTask,
    n_runs: int,
    optimizers: Sequence[str] = OPTIMIZER_NAMES,
    n_micro_batches: int = 400,
) -> Engine:
    """As fast as there is, with a budget that no measurement spends often.

    Raises:
        RuntimeError: if it is not: its numbers would be those of something else.
    """
    engine = Engine(
        task, n_runs, n_micro_batches=n_micro_batches, optimizers=optimizers, compiled=True
    )
    if not engine.report.startswith(_FAST):
        raise RuntimeError(engine.report)
    return engine


def mixed(n_runs: int, optimizers: Sequence[str] = OPTIMIZER_NAMES) -> Hyperparameters:
    """Any of the optimizers for each run, rates over two decades: what a search tries."""
    generator = np.random.default_rng(0)
    indices = np.array([optimizer_index(name) for name in optimizers])
    optimizer = indices[generator.integers(len(optimizers), size=n_runs)]
    scale = np.array(LEARNING_RATE_SCALES)[optimizer]
    rates = 10 ** generator.uniform(-4, -2, size=n_runs) * scale
    return replace(Hyperparameters.full(n_runs), optimizer=optimizer, learning_rate=rates)


def stepper(
    engine: Engine, n_decisions: int, settings: Hyperparameters | None = None
) -> Callable[[], None]:
    """Decisions of `STEPS` micro-batches; begins anew when the budget is spent."""
    chosen = settings or mixed(engine.n_runs)

    def steps() -> None:
        for _ in range(n_decisions):
            if (engine.budgets - engine.position).min() < STEPS:
                engine.reset(range(engine.n_runs), range(engine.n_runs))
            engine.advance(chosen, STEPS)

    engine.reset(range(engine.n_runs), range(engine.n_runs))
    return steps


def flops_of_a_step(task: InnerTask) -> int:
    """Matrix products and convolutions of one inner step, forward and back, counted by torch."""
    model = task.make_model()
    train = task.splits.train
    inputs, targets = (part[: task.micro_batch_size] for part in train)
    with FlopCounterMode(display=False) as counter:
        task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())
