"""How often bootstrap intervals cover the truth: the table of docs/evaluation.md.

    python benchmarks/intervals.py [--repetitions 1000]

Log speed-ups are simulated with known means. Compared are SciPy's percentile and BCa, plain and
with deviations widened by sqrt(n / (n - 1)), as `trainpilot.agents.evaluation.statistics` has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import bootstrap

Samples = list[np.ndarray]
METHODS = ("percentile", "BCa", "widened percentile", "widened BCa")
#: Of the geometric means of tasks, as logarithms.
SPREAD = 0.6
MISS = np.log(0.5)


def seeds(kind: str, n_tasks: int, n_seeds: int) -> Callable[..., tuple[Samples, float]]:
    """Runs of given tasks, and the mean that they are drawn from."""

    def draw(random: np.random.Generator) -> tuple[Samples, float]:
        centres = random.normal(1, SPREAD, n_tasks)
        spreads = random.uniform(0.1, 0.6, n_tasks)
        samples = []
        truth = 0.0
        for task, (centre, spread) in enumerate(zip(centres, spreads, strict=True)):
            if kind == "skewed":
                sample = centre + spread * (random.exponential(1, n_seeds) - 1)
            else:
                sample = random.normal(centre, spread, n_seeds)
            rate = 0.2 if kind == "misses" and task < 3 else 0.0
            if kind == "misses":
                sample[random.random(n_seeds) < rate] = MISS
            samples.append(sample)
            truth += ((1 - rate) * centre + rate * MISS) / n_tasks
        return samples, truth

    return draw


def tasks(kind: str, n_tasks: int) -> Callable[..., tuple[Samples, float]]:
    """Means of tasks, and the mean that they are drawn from."""

    def draw(random: np.random.Generator) -> tuple[Samples, float]:
        if kind == "skewed":
            return [1 + SPREAD * (random.exponential(1, n_tasks) - 1)], 1.0
        return [random.normal(1, SPREAD, n_tasks)], 1.0

    return draw


CASES = {
    "over seeds, 10 tasks, 10 seeds, log-normal": seeds("normal", 10, 10),
    "over seeds, 10 tasks, 10 seeds, misses": seeds("misses", 10, 10),
    "over seeds, 10 tasks, 10 seeds, skewed": seeds("skewed", 10, 10),
    "over seeds, 10 tasks, 5 seeds, log-normal": seeds("normal", 10, 5),
    "over seeds, 10 tasks, 5 seeds, misses": seeds("misses", 10, 5),
    "over seeds, 10 tasks, 3 seeds, log-normal": seeds("normal", 10, 3),
    "over seeds, 1 task, 10 seeds, log-normal": seeds("normal", 1, 10),
    "over tasks, 20 tasks": tasks("normal", 20),
    "over tasks, 10 tasks": tasks("normal", 10),
    "over tasks, 10 tasks, skewed": tasks("skewed", 10),
    "over tasks, 4 tasks": tasks("normal", 4),
}


def covers(samples: Samples, truth: float, method: str, seed: int) -> bool:
    """Whether a 95 % interval of the mean of the samples' means holds the truth."""
    if method.startswith("widened"):
        factors = [np.sqrt(len(sample) / (len(sample) - 1)) for sample in samples]
        samples = [
            sample.mean() + (sample - sample.mean()) * factor
            for sample, factor in zip(samples, factors, strict=True)
        ]
    ends = bootstrap(
        samples,
        lambda *resamples, axis: np.mean([each.mean(axis=axis) for each in resamples], axis=0),
        n_resamples=1000,
        vectorized=True,
        method=method.split()[-1],
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return bool(ends.low <= truth <= ends.high)


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=1000)
    repetitions = parser.parse_args().repetitions
    print("|", " | ".join(("interval", *METHODS)), "|")
    for case, draw in CASES.items():
        covered = dict.fromkeys(METHODS, 0)
        for seed in range(repetitions):
            samples, truth = draw(np.random.default_rng(seed))
            for method in METHODS:
                covered[method] += covers(samples, truth, method, seed)
        shares = (f"{count / repetitions:.1%}" for count in covered.values())
        print("|", " | ".join((case, *shares)), "|", flush=True)


if __name__ == "__main__":
    main()
