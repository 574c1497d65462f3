"""Plausible content of `results.json`, schema version 2, made without any training."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import numpy as np

REFERENCES = ("adam_default", "shared_fixed", "shared_cosine", "oracle_fixed")
MISS_BUDGETS = 2.0
#: By name: kind, how fast it learns, largest learning rate, samples of search in budgets.
CONTROLLERS: dict[str, tuple[str, float, float, float]] = {
    "policy": ("policy", 4.0, 8e-3, 0),
    "policy_open_loop": ("ablation", 2.6, 6e-3, 0),
    "adam": ("heuristic", 1.0, 1e-3, 0),
    "step_decay": ("heuristic", 4.2, 1e-2, 0),
    "random_search_8": ("search", 3.6, 5e-3, 8),
    "oracle_fixed": ("oracle", 4.6, 1e-2, 21),
    "shared_fixed": ("shared", 3.0, 1e-2, 0),
    "shared_cosine": ("shared", 4.1, 1e-2, 0),
    "cosine": ("heuristic", 3.7, 1e-2, 0),
    "reduce_on_plateau": ("heuristic", 3.9, 1e-2, 0),
    "rmsprop": ("heuristic", 3.1, 1e-2, 0),
    "sgd": ("heuristic", 0.8, 3e-2, 0),
    "random": ("heuristic", 1.1, 1e-2, 0),
    "prodigy": ("adaptive", 2.2, 1.0, 0),
    "schedule_free": ("adaptive", 2.9, 1e-2, 0),
}
TASKS = ["digits_mlp", "code_transformer", "digits_cnn", "mnist_cnn", "mnist_mlp"]
TASKS += ["phishing_mlp", "segments_mlp", "surnames_gru", "surnames_mlp", "code_mlp"]


def make_results(
    n_tasks: int = 4,
    n_controllers: int = 6,
    n_seeds: int = 3,
    decisions: int = 12,
    without: tuple[str, ...] = (),
    task_names: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Results of the first tasks and controllers of the lists above.

    Of each task but the first a run of `policy_open_loop` diverges, and a `policy` run of the last
    task misses.

    Args:
        n_tasks: how many tasks, 1 to 10.
        n_controllers: how many controllers, 3 to 15.
        n_seeds: runs of each controller on each task.
        decisions: of a run.
        without: controllers left out.
        task_names: of the first tasks, in place of their own.
    """
    generator = np.random.default_rng(0)
    tasks = [*task_names, *TASKS[len(task_names) : n_tasks]]
    names = [name for name in list(CONTROLLERS)[:n_controllers] if name not in without]
    budget = 32 * 10 * decisions
    references = {name: "adam" if name == "adam_default" else name for name in REFERENCES}
    references = {name: given for name, given in references.items() if given in names}
    runs = []
    for number, task in enumerate(tasks):
        for seed in range(n_seeds):
            made = [_run(generator, task, number, name, seed, budget, decisions) for name in names]
            _fail(made, number, len(tasks), seed)
            _measure(made, references)
            runs += made
    return {
        "schema_version": 2,
        "created": "2026-11-22T16:00:00+00:00",
        "version": "0.1.0",
        "settings": {
            "suite": "meta_test",
            "policy": "default",
            "n_seeds": n_seeds,
            "seed": 0,
            "decisions": decisions,
            "micro_batches_per_decision": 10,
            "miss_budgets": MISS_BUDGETS,
            "algoperf_reference": "adam_default",
            "energy_watts": None,
        },
        "controllers": {
            name: {"kind": CONTROLLERS[name][0], "description": f"What {name} does, in a sentence."}
            for name in names
        },
        "references": references,
        "tasks": [
            {
                "name": task,
                "modality": ("image", "text", "table")[number % 3],
                "dataset": task.split("_")[0],
                "model": task.split("_")[-1],
                "n_params": 1000 * (number + 2),
                "micro_batch_size": 32,
                "budget": budget,
                "metrics": ["accuracy"],
                "targets": {
                    name: fmean(
                        run["to_target"][name]["target"] for run in runs if run["task"] == task
                    )
                    for name in references
                },
            }
            for number, task in enumerate(tasks)
        ],
        "runs": runs,
        "summary": {
            name: _summarise([run for run in runs if run["controller"] == name], runs, references)
            for name in names
        },
    }


def _run(
    generator: np.random.Generator,
    task: str,
    number: int,
    name: str,
    seed: int,
    budget: int,
    decisions: int,
) -> dict[str, Any]:
    kind, speed, rate, search = CONTROLLERS[name]
    start = (2.3, 4.1, 1.4)[number % 3]
    floor = start * (0.05 + 0.03 * (number % 4))
    taste = math.exp(0.5 * math.sin(3 * number + len(name)))
    progress = np.linspace(0, 1, decisions + 1)
    shape = np.exp(-1.5 * speed * taste * progress**0.9)
    noise = np.exp(generator.normal(0, 0.03, decisions + 1))
    noise[0] = 1
    loss = (floor + (start - floor) * shape) * noise
    overfit = 1 + 0.06 * number * progress * (speed > 3.5)
    annealed = rate * (1 - 0.97 * progress[:-1] ** 2 if speed > 3.4 else np.ones(decisions))
    optimizers = ["adam"] * decisions
    batches = [1] * decisions
    if kind in ("policy", "ablation"):
        annealed = annealed * np.exp(np.cumsum(generator.normal(0, 0.12, decisions)))
        annealed[: decisions // 4] *= np.linspace(0.15, 1, decisions // 4)
        change = int(generator.integers(decisions // 2, decisions))
        optimizers = ["sgd"] + ["adam"] * (change - 1) + ["rmsprop"] * (decisions - change)
        batches = [1] * (decisions // 2) + [2] * (decisions - decisions // 2)
    elif name in ("sgd", "rmsprop", "prodigy", "schedule_free"):
        optimizers = [name] * decisions
    # An optimizer that finds its own step has no rate to tell.
    rates = [None] * decisions if name == "prodigy" else annealed.tolist()
    accuracy = (1 - 0.6 * loss / start).tolist()
    test = (loss * overfit * 1.05).tolist()
    return {
        "task": task,
        "controller": name,
        "seed": seed,
        "budget": budget,
        "diverged": False,
        "roll_backs": int(generator.integers(0, 2)) if kind in ("policy", "ablation") else 0,
        "switches": sum(a != b for a, b in pairwise(optimizers)),
        "clamped": 1,
        "seconds": 1.5 + seed,
        "energy_joules": None,
        "search_samples": int(search * budget),
        "configuration": {"learning_rate": rate},
        "final_outer_valid_loss": float(loss[-1]),
        "area_under_curve": float(loss.mean()),
        "final_test_loss": test[-1],
        "best_test_loss": min(test),
        "final_test_accuracy": accuracy[-1],
        "best_test_accuracy": max(accuracy),
        "test_metrics": {"accuracy": accuracy[-1]},
        "curve": {
            "samples": [320 * step for step in range(decisions + 1)],
            "valid_loss": (loss * 0.98).tolist(),
            "outer_valid_loss": loss.tolist(),
            "test_loss": test,
            "test_accuracy": accuracy,
            "learning_rate": rates,
            "batch_size": batches,
            "optimizer": optimizers,
        },
    }


def _fail(made: list[dict[str, Any]], number: int, n_tasks: int, seed: int) -> None:
    """Let some runs diverge or stay above every target."""
    for run in made:
        curve = run["curve"]
        if run["controller"] == "policy_open_loop" and number and seed == 0:
            run["diverged"] = True
            for key in ("final_outer_valid_loss", "final_test_loss", "final_test_accuracy"):
                run[key] = None
            run["test_metrics"] = {}
            # It ends in mid-run, and the last point is no number.
            for key, values in curve.items():
                curve[key] = values[: len(values) * 2 // 3]
            for key in ("valid_loss", "outer_valid_loss", "test_loss", "test_accuracy"):
                curve[key][-1] = None
        if run["controller"] == "policy" and number == n_tasks - 1 and seed == 0:
            curve["outer_valid_loss"] = [2 + loss for loss in curve["outer_valid_loss"]]
            run["final_outer_valid_loss"] = curve["outer_valid_loss"][-1]


def _needed(run: dict[str, Any], target: float) -> float | None:
    if run["diverged"]:
        return None
    pairs = zip(run["curve"]["samples"], run["curve"]["outer_valid_loss"], strict=True)
    return next((samples for samples, loss in pairs if loss <= target), None)


def _measure(made: list[dict[str, Any]], references: dict[str, str]) -> None:
    by_name = {run["controller"]: run for run in made}
    for run in made:
        run["to_target"] = {}
        for reference, controller in references.items():
            rival = by_name[controller]
            target = rival["curve"]["outer_valid_loss"][-1]
            samples = _needed(run, target)
            counted = MISS_BUDGETS * run["budget"] if samples is None else samples
            before = _needed(rival, target) or 1
            run["to_target"][reference] = {
                "target": target,
                "reached": samples is not None,
                "samples": samples,
                "decisions": None if samples is None else samples // 320,
                "seconds": None if samples is None else run["seconds"] * samples / run["budget"],
                "speedup": before / counted,
                "speedup_with_search": before / (counted + run["search_samples"]),
            }


def _geomean(values: list[float]) -> float:
    return math.exp(fmean(math.log(value) for value in values))


def _mean(values: list[float | None]) -> float | None:
    return None if None in values or not values else fmean(values)  # type: ignore[type-var]


def _profile(
    own: list[dict[str, Any]], runs: list[dict[str, Any]], key: str
) -> dict[str, Any] | None:
    if CONTROLLERS[own[0]["controller"]][0] in ("search", "oracle", "ablation"):
        return None

    def time(task: str, name: str) -> float:
        goals = [
            run["to_target"][key]
            for run in runs
            if (run["task"], run["controller"]) == (task, name)
        ]
        return median(goal["samples"] if goal["reached"] else math.inf for goal in goals)

    tasks = dict.fromkeys(run["task"] for run in own)
    names = dict.fromkeys(
        name
        for name in (run["controller"] for run in runs)
        if CONTROLLERS[name][0] not in ("search", "oracle", "ablation")
    )
    lags = [
        time(task, own[0]["controller"]) / max(1, min(time(task, name) for name in names))
        for task in tasks
    ]
    ratios = sorted({1.0, 4.0, *(lag for lag in lags if lag <= 4)})
    return {
        "ratio": ratios,
        "share": [fmean(lag <= ratio for lag in lags) for ratio in ratios],
        "score": fmean(max(0, 4 - lag) / 3 for lag in lags),
    }


def _against(
    own: list[dict[str, Any]], other: list[dict[str, Any]], key: str
) -> dict[str, float | None]:
    ratio = _geomean([run["to_target"][key]["speedup"] for run in own]) / _geomean(
        [run["to_target"][key]["speedup"] for run in other]
    )
    if len(own) == len({run["task"] for run in own}):
        return {"ratio": ratio, "ci_low": None, "ci_high": None}
    return {"ratio": ratio, "ci_low": ratio / 1.04, "ci_high": ratio * 1.05}


def _summarise(
    own: list[dict[str, Any]], runs: list[dict[str, Any]], references: dict[str, str]
) -> dict[str, Any]:
    names = list(dict.fromkeys(run["task"] for run in own))
    tasks = {}
    for name in names:
        rows = [run for run in own if run["task"] == name]
        tasks[name] = {
            "final_test_loss": _mean([run["final_test_loss"] for run in rows]),
            "best_test_loss": _mean([run["best_test_loss"] for run in rows]),
            "test_metrics": {
                "accuracy": _mean([run["test_metrics"].get("accuracy") for run in rows])
            },
            "speedup": {
                key: _geomean([run["to_target"][key]["speedup"] for run in rows])
                for key in references
            },
            "reached": {
                key: fmean(run["to_target"][key]["reached"] for run in rows) for key in references
            },
            "divergence_rate": fmean(run["diverged"] for run in rows),
            "n_runs": len(rows),
        }
    speedup, profile = {}, {}
    for key in references:
        by_task = {name: tasks[name]["speedup"][key] for name in names}
        mean = _geomean(list(by_task.values()))
        worst = min(by_task, key=lambda name: by_task[name])
        values = [run["to_target"][key]["speedup"] for run in own]
        speedup[key] = {
            "geomean": mean,
            "ci_low": mean / 1.08,
            "ci_high": mean * 1.07,
            "tasks_ci_low": mean / 1.4,
            "tasks_ci_high": mean * 1.5,
            "iqm": float(np.median(values)),
            "probability_of_improvement": (better := fmean(value > 1 for value in values)),
            "probability_ci_low": 0.9 * better,
            "probability_ci_high": min(1.1 * better, 1),
            "worst": by_task[worst],
            "worst_task": worst,
            "reached": fmean(run["to_target"][key]["reached"] for run in own),
        }
        if len(own) == len(names):
            # One seed tells nothing of chance.
            speedup[key].update(ci_low=None, ci_high=None)
            speedup[key].update(probability_ci_low=None, probability_ci_high=None)
        if len(names) == 1:
            speedup[key].update(tasks_ci_low=None, tasks_ci_high=None)
        profile[key] = _profile(own, runs, key)
    others = dict.fromkeys(run["controller"] for run in runs)
    kind = CONTROLLERS[own[0]["controller"]][0]
    against = {
        name: {
            key: _against(own, [run for run in runs if run["controller"] == name], key)
            for key in references
        }
        for name in others
        if kind == "policy" and name != own[0]["controller"]
    }
    ratio = _mean([run["final_test_loss"] for run in own])
    adam = _mean([run["final_test_loss"] for run in runs if run["controller"] == "adam"])
    return {
        "kind": kind,
        "against": against,
        "speedup": speedup,
        "speedup_with_search": {
            key: _geomean([run["to_target"][key]["speedup_with_search"] for run in own])
            for key in references
        },
        "algoperf_score": (profile["adam_default"] or {}).get("score"),
        "profile": profile,
        **{
            key: fmean(run[key] for run in own)
            for key in ("roll_backs", "switches", "seconds", "search_samples")
        },
        "divergence_rate": fmean(run["diverged"] for run in own),
        "final_test_loss_ratio": None if ratio is None or adam is None else ratio / adam,
        "tasks": tasks,
    }
