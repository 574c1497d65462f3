"""Inner runs under controllers: the same initial weights and data order for each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.controller import Controller, Decision, View, join_factors
from trainpilot.agents.held_out import HeldOut, measure_test
from trainpilot.agents.records import Made
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns, Outcome
from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.protocol import InnerTask


class Rollout(NamedTuple):
    """What `roll_out` gives.

    Attributes:
        runs: for each controller, then for each seed.
        weights: gives the trained weights of a run, by its place in `runs`.
    """

    runs: list[Run]
    weights: Callable[[int], dict[str, Tensor]]


def roll_out(
    task: InnerTask,
    controllers: Mapping[str, Controller],
    seeds: Sequence[int],
    config: EnvConfig,
    on_decision: Callable[[], None] = lambda: None,
    *,
    held_out: bool = False,
) -> Rollout:
    """Train a task's model under every controller with every seed, all at once.

    Args:
        task: the inner task.
        controllers: by name.
        seeds: of the runs; a seed means the same weights and data for every controller. What
            controllers draw at random depends on the first of them and on the task's name.
        config: of the environment.
        on_decision: called after each decision.
        held_out: measure `test` in mid-run too, for reports (default: False).

    Returns:
        The finished runs.
    """
    names = [name for name in controllers for _ in seeds]
    inner = InnerRuns(task, len(names), config)
    engine = inner.engine
    if not isinstance(engine, Engine):
        raise TrainpilotError(f"controllers are compared on a task; given: the family {task.name}")
    inner.reset(
        range(len(names)),
        list(seeds) * len(controllers),
        decisions=[config.decisions] * len(names),
    )
    slices = {
        name: slice(number * len(seeds), (number + 1) * len(seeds))
        for number, name in enumerate(controllers)
    }
    for controller in controllers.values():
        controller.begin(len(seeds), inner.actions, choice_seed(seeds[0], task.name))
    budget = config.n_micro_batches * task.micro_batch_size
    runs = [
        Run(task.name, name, seed, budget)
        for name, seed in zip(names, list(seeds) * len(controllers), strict=True)
    ]
    valid, outer_valid = engine.evaluate()
    extend(runs, 0, valid.loss, outer_valid.loss)
    watch = HeldOut(engine, runs, valid.loss) if held_out else None
    for decision in range(config.decisions):
        decided: dict[str, Decision] = {}
        for name, rows in slices.items():
            view = View(
                inner.observation[rows],
                inner.hyperparameters.rows(rows),
                valid.loss[rows],
                decision,
                config.decisions,
                inner.guard_scale[rows],
                config.micro_batches_per_decision,
            )
            begun = time.perf_counter()
            decided[name] = controllers[name].decide(view)
            spend(runs[rows], time.perf_counter() - begun)
        observed, guard_scale = inner.observation, inner.guard_scale
        asked = Hyperparameters.concatenate([d.hyperparameters for d in decided.values()])
        factors = join_factors([*decided.values()], config.micro_batches_per_decision)
        begun = time.perf_counter()
        outcome = inner.step(asked, factors)
        spend(runs, time.perf_counter() - begun)
        valid = outcome.valid
        steps = int(engine.position[0])
        samples = steps * task.micro_batch_size
        for name, rows in slices.items():
            made = Made(
                step=steps - config.micro_batches_per_decision,
                observation=observed[rows],
                explanation=decided[name].explanation,
                before=outcome.before.rows(rows),
                hyperparameters=outcome.hyperparameters.rows(rows),
                clamped=outcome.clamped[rows],
                guard_scale=guard_scale[rows],
            )
            _record(runs, rows, made, outcome, decision, samples)
        extend(runs, samples, outcome.valid.loss, outcome.outer_valid.loss)
        # Before runs are said to have diverged: their curves end with what became of them.
        if watch is not None:
            watch.look(outcome.valid.loss)
        for row, run in enumerate(runs):
            run.roll_backs += int(outcome.interventions.rolled_back[row])
            run.diverged |= bool(outcome.terminated[row])
        on_decision()
        if all(run.diverged for run in runs):
            break
    if watch is None:
        measure_test(engine, runs, task.splits.test)
    else:
        watch.finish()
    return Rollout(runs, engine.state_dict)


def spend(runs: list[Run], seconds: float) -> None:
    """Count time that these runs took side by side, an equal share for each that goes on.

    Args:
        runs: side by side.
        seconds: that they took in all.
    """
    going = [run for run in runs if not run.diverged]
    for run in going:
        run.seconds += seconds / len(going)


def extend(
    runs: list[Run], samples: int, valid_loss: np.ndarray, outer_valid_loss: np.ndarray
) -> None:
    """Add a point to the curves of the runs that go on.

    Args:
        runs: side by side.
        samples: that each has processed.
        valid_loss: of each, `(n_runs,)`.
        outer_valid_loss: likewise.
    """
    for row, run in enumerate(runs):
        if not run.diverged:
            run.add_point(samples, valid_loss[row], outer_valid_loss[row])


def _record(
    runs: list[Run], rows: slice, made: Made, outcome: Outcome, decision: int, samples: int
) -> None:
    """Add a record of this decision to the runs that go on."""
    interventions = outcome.interventions.texts(outcome.hyperparameters.learning_rate)
    for own, row in enumerate(range(rows.start, rows.stop)):
        run = runs[row]
        if run.diverged:
            continue
        run.decisions.append(
            {
                "task": run.task,
                "controller": run.controller,
                "seed": run.seed,
                "decision": decision,
                "samples": samples,
                **made.record(own),
                "train_loss": float(outcome.train_loss[row]),
                "valid_loss": float(outcome.valid.loss[row]),
                "outer_valid_loss": float(outcome.outer_valid.loss[row]),
                "intervention": interventions[row],
            }
        )
