"""Benchmarks of the engine: `make bench`. Writes `benchmarks/results/engine.json`.

Everything runs on one torch thread a process. What is compared is measured in turns in one run
(DACBench before ours and after, since it needs an environment of its own), and every speed is the
median of several. Start-ups and memory are measured once.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from against_dacbench import against_dacbench
from configurations import configurations_per_hour
from growth import growth_with_runs, growth_with_tasks, growth_with_workers
from measuring import machine, seconds
from memory import memory
from observation import share_of_the_observation
from speed import against_the_loop, share_of_the_peak
from subjects import SUBJECTS

RESULTS = Path(__file__).parent / "results" / "engine.json"

#: What is aimed at.
BARS = {
    "ratio.mlp_vs_loop": ">= 10",
    "ratio.cnn_vs_loop": ">= 3",
    "ratio.charlm_vs_loop": ">= 3",
    "ratio.transformer_vs_loop": ">= 3",
    "ratio.cnn_vs_dacbench": ">= 100",
    "configs_per_hour": ">= 1,000,000",
    "peak_share": ">= 0.40",
    "observation_share": "< 0.15",
    "bytes_per_row_over_params": "",
}


def parts(dacbench_python: Path | None) -> dict[str, Callable[[], Any]]:
    """All that can be measured, by name."""
    cores = os.cpu_count() or 1
    measurements: dict[str, Callable[[], Any]] = {
        **{f"loop.{name}": (lambda name=name: against_the_loop(name)) for name in SUBJECTS},
        "peak": share_of_the_peak,
        "observation": share_of_the_observation,
        "configs_per_hour": lambda: configurations_per_hour(cores),
        "runs": growth_with_runs,
        "tasks": growth_with_tasks,
        "workers": lambda: growth_with_workers(cores),
        "memory": memory,
    }
    if dacbench_python:
        measurements["dacbench"] = lambda: against_dacbench(dacbench_python)
    return measurements


def headline(measured: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `BARS`; None where a part was not measured."""

    def number(part: str, key: str) -> Any:
        return measured.get(part, {}).get(key)

    ratio = {f"{name}_vs_loop": number(f"loop.{name}", "ratio") for name in SUBJECTS}
    return {
        "ratio": {**ratio, "cnn_vs_dacbench": number("dacbench", "ratio")},
        "configs_per_hour": number("configs_per_hour", "per_hour"),
        "peak_share": number("peak", "peak_share"),
        "observation_share": number("observation", "observation_share"),
        "bytes_per_row_over_params": number("memory", "bytes_per_row_over_params"),
    }


def write(results: dict[str, Any], path: Path) -> None:
    """All at once, so that what stands there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    temporary.replace(path)


def say(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


def main() -> None:
    """Measure everything that is asked for and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dacbench-python", type=Path, help="of the environment that has it")
    parser.add_argument("--only", nargs="*", help="names of the parts to measure, or beginnings")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name}, of all parts alone")
    given = parser.parse_args()
    # A part alone would take the place of a whole measurement.
    out = RESULTS if given.out is None and not given.only else given.out
    torch.set_num_threads(1)
    measured: dict[str, Any] = {}
    for name, part in parts(given.dacbench_python).items():
        if given.only and not name.startswith(tuple(given.only)):
            continue
        taken = seconds(lambda name=name, part=part: measured.update({name: part()}))
        say(f"{name} ({taken:.0f} s): {json.dumps(measured[name])}")
    results = {"machine": machine(), "measured": measured, **headline(measured)}
    if out is not None:
        write(results, out)
    say(f"\n{'':28}{'measured':>12}{'bar':>14}")
    for name, bar in BARS.items():
        value: Any = results
        for key in name.split("."):
            value = value[key]
        shown = "not measured" if value is None else f"{value:12,.3g}"
        say(f"{name:28}{shown:>12}{bar:>14}")


if __name__ == "__main__":
    main()
