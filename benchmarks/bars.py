"""What a policy must reach to be worth shipping, and what it reaches.

    python benchmarks/bars.py [--policy default] [--seeds 10] [--out outputs/bars] [--only PART ...]

It runs `trainpilot evaluate suite=meta_test` eight times over: against all rivals, against random
search, against the policy of the rate alone and Muon's best schedule, from bad starts, and with a
hundred seeds. Prints one line for each bar, with its number, and leaves them in `bars.json`.
Nothing is chosen by it. Finished runs are kept in `outputs/cache`, so that what was interrupted
goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from trainpilot.agents.files import read_json, write_json

#: Settings of the environment under which runs begin badly, beside Adam at 1e-3.
BAD_STARTS = {
    "rate 100 times too small": [
        "env.start.learning_rate_low=1e-5",
        "env.start.learning_rate_high=1e-5",
    ],
    "rate 30 times too large": [
        "env.start.learning_rate_low=3e-2",
        "env.start.learning_rate_high=3e-2",
    ],
    "SGD": ["env.start.optimizers=[sgd]"],
    "RMSProp": ["env.start.optimizers=[rmsprop]"],
}
#: References by the speed-up that is needed over each, to its own final loss.
OWN_ENDS = {
    "adam_default": ("Adam at 1e-3", 3.0),
    "shared_fixed": ("best constant for meta_train", 1.39),
    "shared_cosine": ("best cosine for meta_train", 1.15),
    "oracle_fixed": ("best constant on the very task", 1.1),
}
#: A run has recovered that ends within this of the reference's final loss.
TOLERANCE = 1.05

_ALONE = ["controller=[policy,adam]", "method=[]", "ablations=false", "references=[adam_default]"]
#: Names of the parts, and the settings of each evaluation.
PARTS = {
    "rivals": [[]],
    "search": [
        [
            "controller=[policy,adam,shared_cosine,shared_fixed]",
            "method=[random_search]",
            "ablations=false",
        ]
    ],
    "switching": [
        [
            "controller=[policy,rate_only,shared_muon,adam,shared_cosine]",
            "method=[]",
            "ablations=false",
            "references=[adam_default,shared_cosine]",
        ]
    ],
    "starts": [[*_ALONE, *settings] for settings in BAD_STARTS.values()],
    "many": [
        [
            "controller=[policy,adam,shared_fixed,shared_cosine]",
            "method=[]",
            "ablations=false",
            "references=[adam_default,shared_fixed,shared_cosine]",
            "n_seeds=100",
        ]
    ],
}


class Bar(NamedTuple):
    """One line of the result.

    Attributes:
        name: what is asked.
        needed: at least; shares are from 0 to 1. None where nothing was set.
        reached: what was measured.
        interval: 95 %, with other seeds; None where there is none.
    """

    name: str
    needed: float | None
    reached: float
    interval: tuple[float, float] | None = None

    def text(self) -> str:
        """As a line."""
        low_high = "" if self.interval is None else " ({:.2f} to {:.2f})".format(*self.interval)
        found = f"{self.name}: {self.reached:.2f}{low_high}"
        if self.needed is None:
            return found
        verdict = "reached" if self.reached >= self.needed else "NOT reached"
        return f"{found}, {self.needed:g} needed: {verdict}"


def evaluate(policy: str, seeds: int, folder: Path, settings: list[str]) -> dict[str, Any]:
    """The results of one evaluation; runs that it has made before come from its own cache."""
    command = [sys.executable, "-m", "trainpilot.agents.evaluate", "suite=meta_test"]
    given = [f"policy={policy}", f"n_seeds={seeds}", f"hydra.run.dir={folder}", *settings]
    subprocess.run([*command, *given], check=True)
    results: dict[str, Any] = read_json(folder / "results.json")
    return results


def against_rivals(results: dict[str, Any]) -> list[Bar]:
    """Speed-ups to the targets of references, and what they cost."""
    summary = results["summary"]["policy"]
    bars = _to_own_ends(results)
    rivals = [
        ("shared_fixed", 1.39),
        ("shared_cosine", 1.15),
        ("oracle_fixed", 1.1),
        ("oracle_cosine", 0.9),
        ("policy_open_loop", 1.0),
    ]
    bars += [_over(rival, results, "adam_default", least) for rival, least in rivals]
    worst = summary["speedup"]["adam_default"]["worst"]
    bars.append(Bar("speed-up over Adam on the worst task", 0.8, worst))
    own, theirs = (results["summary"][name]["tasks"] for name in ("policy", "shared_cosine"))
    no_higher = [
        found["final_test_loss"] <= theirs[task]["final_test_loss"] for task, found in own.items()
    ]
    name = "share of tasks with a test loss no higher than the best cosine's"
    return [*bars, Bar(name, 0.9, sum(no_higher) / len(no_higher))]


def _to_own_ends(results: dict[str, Any], more: str = "") -> list[Bar]:
    """Speed-ups over the references that were evaluated, each to its own final loss."""
    found = results["summary"]["policy"]["speedup"]
    return [
        Bar(
            f"speed-up over {name}, to its final loss{more}",
            least,
            found[reference]["geomean"],
            (found[reference]["ci_low"], found[reference]["ci_high"]),
        )
        for reference, (name, least) in OWN_ENDS.items()
        if reference in found
    ]


def _over(rival: str, results: dict[str, Any], reference: str, least: float | None = None) -> Bar:
    found = results["summary"]["policy"]["against"][rival][reference]
    goal = {"adam_default": "Adam's", "shared_cosine": "the best cosine's"}[reference]
    interval = (found["ci_low"], found["ci_high"])
    return Bar(f"speed-up over {rival}, to {goal} final loss", least, found["ratio"], interval)


def switching(results: dict[str, Any]) -> list[Bar]:
    """What the choice of an optimizer is worth, and a schedule of that optimizer."""
    rivals = ("rate_only", "shared_muon")
    goals = ("adam_default", "shared_cosine")
    return [_over(rival, results, goal) for rival in rivals for goal in goals]


def against_search(results: dict[str, Any]) -> list[Bar]:
    """Share of tasks on which the policy is faster than what random search finds."""
    own, theirs = (results["summary"][name]["tasks"] for name in ("policy", "random_search_4x"))
    wins = [
        found["speedup"]["adam_default"] > theirs[task]["speedup"]["adam_default"]
        for task, found in own.items()
    ]
    name = "share of tasks on which it is faster than random search with 4 times the samples"
    return [Bar(name, 0.7, sum(wins) / len(wins))]


def recovered(name: str, results: dict[str, Any]) -> Bar:
    """Share of runs from a bad start that end near the reference's final loss."""
    runs = [run for run in results["runs"] if run["controller"] == "policy"]
    near = [
        not run["diverged"]
        and run["final_outer_valid_loss"] <= TOLERANCE * run["to_target"]["adam_default"]["target"]
        for run in runs
    ]
    return Bar(f"share of runs that recover from {name}", 0.95, sum(near) / len(near))


def many_seeds(results: dict[str, Any]) -> list[Bar]:
    """Share of many runs that do not diverge, and speed-ups that ten seeds may flatter."""
    runs = [run for run in results["runs"] if run["controller"] == "policy"]
    sound = sum(not run["diverged"] for run in runs)
    share = Bar(f"share of {len(runs):,} runs that do not diverge", 1.0, sound / len(runs))
    return [share, *_to_own_ends(results, ", a hundred seeds")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("outputs/bars"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    bars: list[Bar] = []
    for part in arguments.only:
        results = [
            evaluate(
                arguments.policy, arguments.seeds, arguments.out / f"{part}_{number}", settings
            )
            for number, settings in enumerate(PARTS[part])
        ]
        if part == "rivals":
            bars += against_rivals(results[0])
        elif part == "search":
            bars += against_search(results[0])
        elif part == "switching":
            bars += switching(results[0])
        elif part == "starts":
            bars += [recovered(*each) for each in zip(BAD_STARTS, results, strict=True)]
        else:
            bars += many_seeds(results[0])
    write_json(arguments.out / "bars.json", [bar._asdict() for bar in bars])
    for bar in bars:
        print(bar.text())


if __name__ == "__main__":
    main()
