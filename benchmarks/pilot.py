"""What the pilot costs beside plain AdamW: `make bench`. Writes `benchmarks/results/pilot.json`.

A pilot's steps are of three kinds: plain ones, those that are measured, and those that end with a
decision. Each kind is timed in turns with AdamW's own `step`, in blocks of one kind. A training's
overhead is what they make together, by how often each occurs, over AdamW's whole step with forward
and back.
Beside it, whole trainings of the small model are timed against each other.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import in_turns, machine, median_ratio
from torch import Tensor, nn
from torch.nn import functional

from trainpilot import Pilot
from trainpilot.agents.pilot.optimizer import PilotOptimizer
from trainpilot.envs.limits import BoundsConfig

RESULTS = Path(__file__).parent / "results" / "pilot.json"

#: Lengths of a training that its overhead is worked out for; where none is known, beside.
LENGTHS = (300, 1_000, 3_000, 20_000)


class Block(nn.Module):
    """Two convolutions and a way around them (He et al., arXiv 1512.03385)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.around = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.main(inputs) + self.around(inputs))


def resnet18() -> nn.Module:
    """The one for images of 32 x 32: 11.2 million parameters."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [
        Block(inner, outer, 2 if outer > inner else 1)
        for inner, outer in itertools.pairwise(widths)
    ]
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    """64-64-64-10."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


#: Model, shape of a batch, steps in a block, blocks of each kind.
SUBJECTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "mlp": (mlp, (64, 64), 10, 101),
    "resnet18": (resnet18, (128, 3, 32, 32), 1, 7),
}


def measure(name: str) -> dict[str, Any]:
    """Seconds of each kind of step, the overhead by length, and the memory."""
    make, shape, n_steps, n_turns = SUBJECTS[name]
    torch.manual_seed(0)
    model = make()
    inputs, targets = torch.randn(shape), torch.randint(10, shape[:1])

    def loss() -> Tensor:
        return functional.cross_entropy(model(inputs), targets)

    def whole() -> None:
        adamw.zero_grad()
        loss().backward()
        adamw.step()

    # The same gradient over and over: a higher rate would lead far away.
    bounds = BoundsConfig(learning_rate_high=1e-6)

    def rates(n_decisions: int, n_measured: int, every: int) -> PilotOptimizer:
        return Pilot.load("rate_only", farthest=None).attach(
            model, lr=1e-6, weight_decay=0.01, decisions=n_decisions, measured_steps=n_measured,
            decide_every=every, bounds=bounds,
        )  # fmt: skip

    adamw = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.01)
    plain = rates(10, 1, 10**6)
    measured = rates(10, 10**6, 10**6)
    deciding = rates(10**6, 1, 1)
    loss().backward()
    value = loss().detach()
    steps: dict[str, Callable[[], Any]] = {
        "adamw": adamw.step,
        "plain": lambda: plain.step(loss=value),
        "measured": lambda: measured.step(loss=value),
        "deciding": lambda: deciding.step(loss=value),
    }

    def block(step: Callable[[], Any]) -> None:
        for _ in range(n_steps):
            step()

    blocks = {kind: partial(block, step) for kind, step in steps.items()}
    # Blocks are short and differences taken within a turn: the machine's speed drifts.
    taken = in_turns(blocks | {"whole": partial(block, whole)}, n_turns)
    taken = {kind: [each / n_steps for each in times] for kind, times in taken.items()}
    more = {
        kind: median(one - other for one, other in zip(taken[kind], taken["adamw"], strict=True))
        for kind in ("plain", "measured", "deciding")
    }
    step = median(taken["whole"])
    # 30 decisions, the step before each of which is measured too, and 270 others measured.
    overhead = {
        str(length): (
            (length - 300) * more["plain"] + 270 * more["measured"] + 30 * more["deciding"]
        )
        / (length * step)
        for length in LENGTHS
    }
    # Of a hundred steps one decides, and nine others are measured.
    hundred = 90 * more["plain"] + 9 * more["measured"] + more["deciding"]
    overhead["unknown"] = hundred / (100 * step)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": n_parameters,
        "step_seconds": step,
        "adamw_seconds": median(taken["adamw"]),
        "seconds_over_adamw": more,
        "overhead": overhead,
        "snapshot_bytes_over_parameters": _snapshot_bytes(plain) / (4 * n_parameters),
    }


def _snapshot_bytes(optimizer: PilotOptimizer) -> int:
    """Of the copy that is there for roll-backs once Adam's moments are."""
    snapshot = optimizer._snapshot
    assert snapshot is not None  # noqa: S101
    snapshot.keep()
    return _bytes(snapshot.state_dict())


def _bytes(state: Any) -> int:
    """Of all tensors in it."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, dict) else state
    return sum(map(_bytes, parts)) if isinstance(state, dict | list | tuple) else 0


def whole_trainings(length: int, n_turns: int) -> dict[str, float]:
    """Seconds of whole trainings of the small model under the pilot over those under AdamW."""
    torch.manual_seed(0)
    start = mlp()
    data = [(torch.randn(64, 64), torch.randint(10, (64,))) for _ in range(1_000)]

    def train(with_pilot: bool) -> None:
        model = copy.deepcopy(start)
        optimizer: Any = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        if with_pilot:
            optimizer = pilot.attach(model, length, weight_decay=0.01, bounds=same)
        for number in range(length):
            inputs, targets = data[number % len(data)]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step(loss=loss) if with_pilot else optimizer.step()

    pilot = Pilot.load("rate_only")
    # The same learning rate, or another training's numbers would be timed.
    same = BoundsConfig(learning_rate_low=1e-3, learning_rate_high=1e-3)
    taken = in_turns({"pilot": lambda: train(True), "adamw": lambda: train(False)}, n_turns)
    return {"ratio": median_ratio(taken, "pilot", "adamw")}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    results: dict[str, Any] = {"machine": machine()}
    for name in SUBJECTS:
        results[name] = measure(name)
        print(json.dumps({name: results[name]}, indent=2), flush=True)
    results["whole_mlp"] = {str(length): whole_trainings(length, 7) for length in (300, 3_000)}
    print(json.dumps({"whole_mlp": results["whole_mlp"]}, indent=2))
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{arguments.out} written after {time.monotonic() - begun:.0f} seconds")


if __name__ == "__main__":
    main()
