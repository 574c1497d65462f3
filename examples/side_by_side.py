"""Plain AdamW, AdamW with a cosine, and the pilot, in the same training loop.

Nobody tuned any of them: all begin at torch's own default of 1e-3. The examples give model and
data; every seed means the same initial weights and the same batches for all three.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from trainpilot import Pilot

WAYS = ("adamw", "cosine", "pilot")
#: Points at which the validation loss is measured, for all alike.
N_POINTS = 30


def train(
    way: str, make_model: Callable[[], nn.Module], data: dict[str, TensorDataset], steps: int,
    batch_size: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """One training: its validation curve and what it ends with on the test set."""
    torch.manual_seed(seed)
    model = make_model()
    sampler = RandomSampler(data["train"], num_samples=steps * batch_size, replacement=True)
    loader = DataLoader(data["train"], batch_size, sampler=sampler)
    schedule = None
    if way == "pilot":
        optimizer: Any = Pilot.load("default").attach(model, total_steps=steps)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if way == "cosine":
        warm = max(steps // 20, 1)
        schedule = SequentialLR(
            optimizer,
            [LinearLR(optimizer, 0.1, 1.0, warm), CosineAnnealingLR(optimizer, steps - warm)],
            [warm],
        )
    begun = time.perf_counter()
    curve = []
    for step, (inputs, targets) in enumerate(loader, 1):
        loss = functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if way == "pilot":
            optimizer.step(loss=loss)
        else:
            optimizer.step()
        if schedule is not None:
            schedule.step()
        if step * N_POINTS // steps > (step - 1) * N_POINTS // steps:
            # A policy may let evaluations see an average of the weights.
            with optimizer.averaged() if way == "pilot" else nullcontext():
                valid_loss, accuracy = evaluate(model, data["valid"])
            curve.append((step, valid_loss))
            if way == "pilot":
                optimizer.observe(valid_loss, accuracy)
    if way == "pilot":
        optimizer.load_averaged()
    loss_at_end, accuracy = evaluate(model, data["test"])
    return {
        "curve": curve,
        "test_loss": loss_at_end,
        "test_accuracy": accuracy,
        "seconds": time.perf_counter() - begun,
    }


@torch.no_grad()
def evaluate(model: nn.Module, split: TensorDataset) -> tuple[float, float]:
    """Mean loss and accuracy on a split."""
    model.eval()
    inputs, targets = split.tensors
    outputs = torch.cat([model(part) for part in inputs.split(512)])
    model.train()
    accuracy = (outputs.argmax(1) == targets).double().mean()
    return functional.cross_entropy(outputs, targets).item(), accuracy.item()


def splits(inputs: Tensor, targets: Tensor) -> dict[str, TensorDataset]:
    """70 % to train on, 15 % to validate, 15 % to test, drawn at random but always the same."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    first, second = int(0.7 * len(inputs)), int(0.85 * len(inputs))
    rows = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
    return {name: TensorDataset(inputs[own], targets[own]) for name, own in rows.items()}


def compare(
    title: str, make_model: Callable[[], nn.Module], data: dict[str, TensorDataset],
    default_steps: int, batch_size: int,
) -> None:  # fmt: skip
    """Train all three ways with several seeds, print a table, and keep the numbers if asked."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--steps", type=int, default=default_steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for all numbers, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed in range(arguments.seeds):
        for way in WAYS:
            runs[way].append(train(way, make_model, data, arguments.steps, batch_size, seed))
            print(f"seed {seed}, {way}: test loss {runs[way][-1]['test_loss']:.4f}", flush=True)
    print(f"\n{title}: {arguments.steps} steps of {batch_size}, {arguments.seeds} seeds")
    print("| | test loss | accuracy | steps to AdamW's last validation loss | seconds |")
    print("| --- | --- | --- | --- | --- |")
    for way in WAYS:
        own = runs[way]
        until = [
            steps_to(run, plain["curve"][-1][1], 2 * arguments.steps)
            for run, plain in zip(own, runs["adamw"], strict=True)
        ]
        loss, accuracy, seconds = (
            mean(run[name] for run in own) for name in ("test_loss", "test_accuracy", "seconds")
        )
        print(f"| {way} | {loss:.4f} | {accuracy:.1%} | {mean(until):.0f} | {seconds:.1f} |")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"title": title, "runs": runs}, indent=1) + "\n")


def steps_to(run: dict[str, Any], target: float, miss: int) -> int:
    """Steps after which a run's validation loss is first at the target; `miss` for never."""
    return next((step for step, loss in run["curve"] if loss <= target), miss)
