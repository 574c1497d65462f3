"""What each feature, action, reward and the guard contribute: meta-training with and without.

    python benchmarks/ablations.py [--only features actions ...] [--seeds 3]

Every variant is meta-trained with the same budget and several seeds, then evaluated on
`meta_valid`. Single features are screened: in each of 44 policies another half of them is hidden
(`ablation_variants.plackett_burman`), so that every policy says something of every feature.
What has been measured is kept in the file of results after every policy and not measured again,
so that the command may be interrupted at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from itertools import repeat
from math import exp, log, sqrt
from pathlib import Path
from statistics import geometric_mean, mean, stdev, variance
from typing import Any

import torch
from ablation_variants import STUDIES, hiding, screening
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainpilot.agents.files import read_json, write_json
from trainpilot.agents.references import write_references
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.family_references import FamilyReferences
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.observation import FEATURE_NAMES
from trainpilot.envs.reference import measure_reference
from trainpilot.envs.task_reference import TaskReference
from trainpilot.inner_tasks.catalogue import load_task, suite_of_tasks
from trainpilot.inner_tasks.family import TaskFamily

#: Rows that measure a task's reference.
_ROWS = 21
_SCREENING = "single_features"


def overrides_for_evaluation(overrides: list[str]) -> list[str]:
    """Those without which a policy cannot be evaluated."""
    return [each for each in overrides if each.startswith("env.bounds")]


def references(path: Path, processes: int) -> None:
    """Measure the references of all tasks of `meta_train` once, for every policy's training."""
    config = EnvConfig(guard=GuardConfig(on_divergence="end"))
    jobs = [
        (name, number)
        for name, suite in suite_of_tasks().items()
        if suite == "meta_train"
        for number in _numbers(name)
    ]
    found = {}
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done, (name, reference) in enumerate(pool.map(_reference, jobs, repeat(config)), 1):
            found[name] = reference
            if done % 20 == 0 or done == len(jobs):
                print(f"{done}/{len(jobs)} references", flush=True)
    write_references(path, found)


def _numbers(name: str) -> list[int | None]:
    task = load_task(name)
    return list(range(task.n_tasks)) if isinstance(task, TaskFamily) else [None]


def _reference(job: tuple[str, int | None], config: EnvConfig) -> tuple[str, TaskReference]:
    name, number = job
    task = load_task(name)
    if isinstance(task, TaskFamily) and number is not None:
        return task.task_name(number), FamilyReferences(task, config, {})(number)
    return name, measure_reference(InnerRuns(task, _ROWS, config))


def measure(
    overrides: list[str], seed: int, decisions: int, rows: int, known: Path
) -> dict[str, Any]:
    """Meta-train a policy and evaluate it on `meta_valid`."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        _run(
            # The tables of docs/control.md are of runs of one length.
            "train", f"seed={seed}", "env.start.shortest_budget=1",
            f"agent.total_decisions={decisions}",
            f"agent.runs_per_task={rows}", "env.compiled=null", f"references={known}",
            f"hydra.run.dir={folder}/train", *overrides,
        )  # fmt: skip
        trained = time.monotonic() - started
        _run(
            "evaluate", f"policy={folder}/train/policy.safetensors", "suite=meta_valid",
            "n_seeds=5", "controller=[policy,adam]", "references=[adam_default]",
            "env=default", "method=[]", "ablations=false", "cache=null", "n_workers=0",
            f"hydra.run.dir={folder}/evaluate",
            *overrides_for_evaluation(overrides),
        )  # fmt: skip
        results = read_json(Path(folder) / "evaluate" / "results.json")
        decisions_in_run = _decisions_in_run(Path(folder) / "train" / "tensorboard")
    runs = {(r["task"], r["seed"], r["controller"]): r for r in results["runs"]}
    adam = results["references"]["adam_default"]
    ratios = [
        _loss(run) / _loss(runs[task, number, adam])
        for (task, number, controller), run in runs.items()
        if controller == "policy"
    ]
    speedup = results["summary"]["policy"]["speedup"]["adam_default"]
    return {
        "speedup": speedup["geomean"],
        "reached": speedup["reached"],
        # A loss may be all but zero in both.
        "final_loss_over_adam": geometric_mean([min(max(r, 1e-2), 1e2) for r in ratios]),
        "diverged": results["summary"]["policy"]["divergence_rate"],
        "by_task": {
            task: values["speedup"]["adam_default"]
            for task, values in results["summary"]["policy"]["tasks"].items()
        },
        "decisions_in_run": decisions_in_run,
        "training_seconds": trained,
    }


def _loss(run: dict[str, Any]) -> float:
    """The final loss of a run; far above all where it diverged, which JSON has as null."""
    loss = run["final_outer_valid_loss"]
    return 1e6 if loss is None else float(loss)


def _decisions_in_run(folder: Path) -> float:
    """Mean length of the inner runs of a meta-training: shorter where the guard ends some."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return mean(event.value for event in events.Scalars("guard/decisions_in_run"))


def _run(verb: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"trainpilot.agents.{verb}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    """Measure what is asked for and has not been measured, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [*STUDIES, _SCREENING]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--decisions", type=int, default=60_000, help="of each meta-training")
    parser.add_argument("--rows", type=int, default=4, help="inner runs of each task")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    default = Path(__file__).parent / "results" / "ablations.json"
    parser.add_argument("--show", action="store_true", help="only what has been measured")
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    setting = {"decisions": arguments.decisions, "rows": arguments.rows}
    kept = read_json(arguments.out) if arguments.out.is_file() else {"setting": setting}
    if kept["setting"] != setting:
        parser.error(f"{arguments.out} holds results of {kept['setting']}, not of {setting}")
    # By the overrides: what two studies have in common is measured once.
    policies: dict[str, Any] = kept.setdefault("policies", {})
    jobs = {
        _key(overrides, seed): (overrides, seed)
        for seed in range(arguments.seeds)
        for study in arguments.only
        for overrides in STUDIES.get(study, {}).values()
    }
    if _SCREENING in arguments.only:
        for seed, hidden in enumerate(screening()):
            jobs[_key(hiding(hidden), seed)] = (hiding(hidden), seed)
    wanted = {key: job for key, job in jobs.items() if key not in policies and not arguments.show}
    known = arguments.out.with_name("references.json")
    if wanted and not known.is_file():
        references(known, arguments.processes)
    started = time.monotonic()
    with ThreadPoolExecutor(arguments.processes) as pool:
        running = {
            pool.submit(measure, *job, arguments.decisions, arguments.rows, known): key
            for key, job in wanted.items()
        }
        try:
            for done, future in enumerate(as_completed(running), 1):
                policies[running[future]] = future.result()
                write_json(arguments.out, kept)
                left = (time.monotonic() - started) / done * (len(wanted) - done)
                print(f"{done}/{len(wanted)}, {left / 60:.0f} minutes left", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    console = Console(width=110)
    for study in arguments.only:
        if study == _SCREENING:
            console.print(_effects(policies))
        else:
            console.print(_table(study, policies, arguments.seeds))


def _key(overrides: list[str], seed: int) -> str:
    return json.dumps([*overrides, f"seed={seed}"])


def _table(study: str, policies: dict[str, Any], n_seeds: int) -> Table:
    table = Table(title=f"{study}: meta_valid, up to {n_seeds} policies each")
    for heading in (
        "variant",
        "speed-up",
        "each",
        "final loss over Adam's",
        "reached",
        "decisions a run",
    ):
        table.add_column(heading)
    for variant, overrides in STUDIES[study].items():
        keys = [_key(overrides, seed) for seed in range(n_seeds)]
        measured = [policies[key] for key in keys if key in policies]
        if not measured:
            continue
        speedups = [each["speedup"] for each in measured]
        spread = f" ± {stdev(speedups):.2f}" if len(speedups) > 1 else ""
        table.add_row(
            variant,
            f"{geometric_mean(speedups):.2f}{spread}",
            " ".join(f"{value:.2f}" for value in speedups),
            f"{geometric_mean([each['final_loss_over_adam'] for each in measured]):.2f}",
            f"{mean(each['reached'] for each in measured):.0%}",
            f"{mean(each['decisions_in_run'] for each in measured):.1f}",
        )
    return table


def _effects(policies: dict[str, Any]) -> Table:
    """What each feature is worth: geometric mean with it over that without it."""
    measured = [
        (hidden, log(policies[key]["speedup"]))
        for seed, hidden in enumerate(screening())
        if (key := _key(hiding(hidden), seed)) in policies
    ]
    table = Table(title=f"single features: meta_valid, {len(measured)} of 44 policies")
    for heading in ("feature", "speed-up with it over without", "two standard errors"):
        table.add_column(heading)
    effects = {}
    for name in FEATURE_NAMES:
        groups = (
            [value for hidden, value in measured if name not in hidden],
            [value for hidden, value in measured if name in hidden],
        )
        if min(map(len, groups)) < 2:
            continue
        error = sqrt(sum(variance(group) / len(group) for group in groups))
        effects[name] = (mean(groups[0]) - mean(groups[1]), error)
    for name, (effect, error) in sorted(effects.items(), key=lambda item: -item[1][0]):
        between = f"{exp(effect - 2 * error):.2f} to {exp(effect + 2 * error):.2f}"
        table.add_row(name, f"{exp(effect):.2f}", between)
    return table


if __name__ == "__main__":
    main()
