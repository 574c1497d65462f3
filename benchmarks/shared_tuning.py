"""The one configuration that is best on `meta_train`, to be carried unchanged to unseen tasks.

    python benchmarks/shared_tuning.py [--seeds 2] [--tasks-of-family 2] [--processes 2]

Every optimizer of the menu, with every learning rate of a grid and every schedule, trains every
task of `meta_train`; `meta_valid` and `meta_test` are not looked at. A configuration's score is the
geometric mean, over tasks and seeds, of its speed-up over Adam at 1e-3 (samples to Adam's final
`outer_valid` loss; a miss counts as two budgets). The winners become `conf/controller/shared.yaml`,
`shared_fixed.yaml` (constant rates), `shared_cosine.yaml` and, of Muon alone, `shared_muon.yaml`.
What has been measured is kept in the file of results after every task and not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import torch

from trainpilot.agents.evaluation.configuration import SCHEDULES, Configuration
from trainpilot.agents.evaluation.measures import samples_to_target, target_of
from trainpilot.agents.evaluation.trials import Trial, train_trials
from trainpilot.agents.files import atomic_path, read_json, write_json
from trainpilot.agents.progress import ProgressBar
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.optimizers import OPTIMIZERS
from trainpilot.envs.reference import GRID_LEARNING_RATES
from trainpilot.inner_tasks.catalogue import load_task, one_by_one, suite_of_tasks
from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.family import TaskFamily

_ROOT = Path(__file__).parents[1]
RESULTS = _ROOT / "benchmarks" / "results" / "shared_tuning.json"
CONTROLLERS = _ROOT / "conf" / "controller"

#: Adam at its default, which speed-ups are against.
_REFERENCE = Configuration("adam", 1e-3)

GRID = [
    Configuration(optimizer, rate, schedule)
    for optimizer, rate, schedule in product(OPTIMIZERS, GRID_LEARNING_RATES, SCHEDULES)
]

#: The lines, and the configurations that each chooses among.
LINES = {
    "shared_fixed": [each for each in GRID if each.schedule == "constant"],
    "shared_cosine": [each for each in GRID if each.schedule == "cosine"],
    "shared": GRID,
    "shared_muon": [each for each in GRID if each.optimizer == "muon"],
}


def key(configuration: Configuration) -> str:
    """A configuration's name; the learning rate in units of Adam's."""
    return f"{configuration.optimizer} {configuration.learning_rate:g} {configuration.schedule}"


def tasks(of_family: int) -> Iterator[tuple[str, str, int | None]]:
    """Each task of `meta_train`: its name, its option's and its number in a family."""
    for option, suite in suite_of_tasks().items():
        if suite == "meta_train":
            given = load_task(option)
            for number, task in enumerate(one_by_one([given], of_family)):
                yield task.name, option, number if isinstance(given, TaskFamily) else None


def measure(
    option: str, number: int | None, configurations: list[Configuration], n_seeds: int
) -> dict[str, float]:
    """Speed-up of each configuration on a task, the geometric mean over seeds."""
    task = load_task(option)
    if isinstance(task, TaskFamily):
        task = task.task(number or 0)
    trained = [_REFERENCE, *configurations]
    trials = [Trial(each, seed) for each in trained for seed in range(n_seeds)]
    runs = train_trials(task, trials, EnvConfig())
    references = runs[:n_seeds]
    return {
        key(each): geometric_mean(
            [
                _speedup(run, reference)
                for run, reference in zip(runs[first:][:n_seeds], references, strict=True)
            ]
        )
        for each, first in zip(configurations, range(n_seeds, len(runs), n_seeds), strict=True)
    }


def _speedup(run: Run, reference: Run) -> float:
    target = target_of(reference)
    return target.samples / samples_to_target(run, target.loss)


def measure_all(results: dict[str, Any], path: Path, processes: int) -> None:
    """Measure what is missing, and keep it."""
    n_seeds, of_family = results["seeds"], results["tasks_of_family"]
    measured = results["tasks"]
    jobs = []
    for name, option, number in tasks(of_family):
        missing = [each for each in GRID if key(each) not in measured.get(name, {})]
        if missing:
            jobs.append((name, option, number, missing))
    if not jobs:
        return
    with (
        ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ProgressBar("tuning", len(jobs)) as progress,
    ):
        running = {
            pool.submit(measure, option, number, missing, n_seeds): name
            for name, option, number, missing in jobs
        }
        for done, future in enumerate(as_completed(running), 1):
            name = running[future]
            rounded = {each: round(value, 4) for each, value in future.result().items()}
            measured[name] = measured.get(name, {}) | rounded
            write_json(path, results)
            progress.update(done, name)


def choose(results: dict[str, Any]) -> dict[str, Configuration]:
    """The winner of each line; every configuration's score goes into the results."""
    measured = results["tasks"].values()
    scores = {each: geometric_mean([of_task[key(each)] for of_task in measured]) for each in GRID}
    ranked = sorted(GRID, key=lambda each: -scores[each])
    results["scores"] = {key(each): round(scores[each], 4) for each in ranked}
    winners = {
        line: next(each for each in ranked if each in allowed) for line, allowed in LINES.items()
    }
    results["winners"] = {
        line: {
            **each.to_json(),
            "score": round(scores[each], 4),
            "worst_task": min(of_task[key(each)] for of_task in measured),
            "tasks_slower_than_adam": round(fmean(t[key(each)] < 1 for t in measured), 4),
        }
        for line, each in winners.items()
    }
    return winners


def write_controller(line: str, winner: Configuration, results: dict[str, Any]) -> None:
    """Write a winner as an option of the group `controller`."""
    kinds = {
        "shared_fixed": "constant rate",
        "shared_cosine": "cosine",
        "shared_muon": "configuration of Muon",
    }
    target = type(winner.controller())
    score = results["winners"][line]["score"]
    text = (
        f"# The best {kinds.get(line, 'configuration')} for all tasks of meta_train, {score:.2f} "
        "times as fast there as Adam at 1e-3.\n"
        f"# Found by benchmarks/shared_tuning.py among {len(LINES[line])} configurations.\n"
        f"{line}:\n"
        f"  _target_: {target.__module__}.{target.__qualname__}\n"
        f"  optimizer: {winner.optimizer}\n"
        f"  learning_rate: {winner.own_learning_rate():g}\n"
        "  weight_decay: 0.0\n"
    )
    with atomic_path(CONTROLLERS / f"{line}.yaml") as temporary:
        temporary.write_text(text)


def main() -> None:
    """Measure, choose and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks-of-family", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    settings = {"seeds": given.seeds, "tasks_of_family": given.tasks_of_family}
    results = read_json(given.out) if given.out.exists() else {**settings, "tasks": {}}
    if any(results[name] != value for name, value in settings.items()):
        raise TrainpilotError(
            f"{given.out} holds results of other settings: give it another name by --out, or give "
            f"its own; given: {settings}"
        )
    measure_all(results, given.out, given.processes)
    winners = choose(results)
    write_json(given.out, results)
    for line, winner in winners.items():
        write_controller(line, winner, results)
        print(f"{line}: {key(winner)}, {results['winners'][line]}")


if __name__ == "__main__":
    main()
