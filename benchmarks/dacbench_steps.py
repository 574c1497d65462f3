"""Measure how many environment steps a second DACBench's SGD environment does.

DACBench needs an environment of its own, so this script stands alone and imports nothing of
trainpilot. It runs the SGD benchmark in step mode on the first of its own training instances
with a batch size of 32: its small CIFAR-10 network (with the negative log-likelihood loss) and
AdamW, which the environment builds whatever optimizer the instance names. Beside it, in the same
process, runs a bare PyTorch loop with that network, loss, optimizer and batch size.

One environment step is one optimizer update, one forward and backward pass over a batch, and one
evaluation on a tenth of the validation set (32 batches of 32 for CIFAR-10's sizes). Not timed are
resets, and an episode's last step, which evaluates the whole validation and test sets.

Run it with the Python that has DACBench: ``python dacbench_steps.py --json result.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

# torchvision's PyPI build is linked to CUDA: beside a CPU-only torch its compiled operators do not
# load, and registering their fake kernels then fails ("operator torchvision::nms does not exist").
# DACBench uses only its data sets and transforms, which need no compiled operator, so registering
# does nothing while it is imported. DACBench warns of each optional benchmark that is missing.
with (
    warnings.catch_warnings(action="ignore"),
    mock.patch.object(torch.library, "register_fake", return_value=lambda function: function),
):
    import dacbench
    from dacbench.benchmarks import SGDBenchmark
    from torchvision import datasets

BATCH_SIZE = 32
LEARNING_RATE, BETA1 = 1e-3, 0.9  # AdamW's defaults; what they are does not change the speed.
WARM_UP = 5
BARE_FACTOR = 10  # A bare step is far quicker: more of them make a time that can be measured.
TRAIN_EXAMPLES, TEST_EXAMPLES, CLASSES = 50_000, 10_000, 10  # CIFAR-10's own.


@functools.cache
def make_examples(train: bool) -> tuple[np.ndarray, list[int]]:
    """Make examples of CIFAR-10's shape: for each class a pattern of its own, under noise.

    Args:
        train: Whether to make the training set rather than the test set.

    Returns:
        Images of 8-bit integers, shaped (examples, 32, 32, 3), and the class of each.
    """
    patterns = np.random.default_rng(0).integers(0, 128, (CLASSES, 32, 32, 3), dtype=np.uint8)
    rng = np.random.default_rng(1 if train else 2)
    count = TRAIN_EXAMPLES if train else TEST_EXAMPLES
    targets = rng.integers(0, CLASSES, count)
    images = rng.integers(0, 128, (count, 32, 32, 3), dtype=np.uint8)
    images += patterns[targets]
    return images, targets.tolist()


class InMemoryCIFAR10(datasets.CIFAR10):
    """CIFAR-10 without its download: only where the arrays come from differs.

    The original keeps its images in memory too, as one array of 8-bit integers. Reading an example
    is inherited, so it costs what it costs in DACBench: a PIL image is made, then DACBench's own
    transforms turn it into a tensor and normalize it.
    """

    def __init__(self, root: str | Path, train: bool = True, transform: Any = None, **_: Any):
        # The parent's own constructor would download: call the one above it.
        datasets.VisionDataset.__init__(self, root, transform=transform)
        self.train = train
        self.data, self.targets = make_examples(train)
        self.classes = [str(label) for label in range(CLASSES)]


def make_environment() -> Any:
    """Make DACBench's SGD environment in step mode, with its defaults but for the instances."""
    # DACBench looks the data set up by its name in torchvision.datasets at each reset.
    datasets.CIFAR10 = InMemoryCIFAR10
    benchmark = SGDBenchmark()
    benchmark.config.epoch_mode = False  # Step mode: one update a step, not one epoch.
    benchmark.read_instance_set()
    # reset(options={"instance": ...}) is ignored, and each reset goes on to the next instance:
    # a set of a single instance keeps it.
    instances = benchmark.config.instance_set.values()
    instance = next(each for each in instances if each.batch_size == BATCH_SIZE)
    benchmark.config.instance_set = {0: instance}
    return benchmark.get_environment()


def time_dacbench(env: Any, steps: int, seed: int) -> float:
    """Time environment steps in the middle of an episode.

    Args:
        env: The environment.
        steps: How many steps to time.
        seed: The seed of the episode.

    Returns:
        Steps per second.

    Raises:
        RuntimeError: If the episode ended, so that not every step was an ordinary one.
    """
    env.reset(seed=seed)
    # Its action space has both: the learning rate and AdamW's first beta.
    action = np.array([LEARNING_RATE, BETA1], dtype=np.float32)
    for _ in range(WARM_UP):
        env.step(action)
    start = time.perf_counter()
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            raise RuntimeError("the episode ended while its steps were timed")
    return steps / (time.perf_counter() - start)


def time_bare_loop(env: Any, inputs: torch.Tensor, targets: torch.Tensor, steps: int) -> float:
    """Time the same training written plainly: take a batch, forward, backward, update.

    Args:
        env: The environment, for its model, loss and optimizer's parameters.
        inputs: All training images, as normalized tensors.
        targets: Their classes.
        steps: How many updates to time.

    Returns:
        Updates per second.
    """
    model = env.instance.model().train()
    optimizer = torch.optim.AdamW(
        model.parameters(), **{"lr": LEARNING_RATE, **env.instance.optimizer_params}
    )
    batches = torch.randperm(len(inputs)).split(BATCH_SIZE)
    start = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            start = time.perf_counter()
        batch = batches[step % len(batches)]
        loss = env.loss_function(model(inputs[batch]), targets[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps / (time.perf_counter() - start)


def main() -> None:
    """Measure both, taking turns, and print the result as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="steps to time in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the result there")
    args = parser.parse_args()

    torch.set_num_threads(1)
    env = make_environment()
    longest = int(env.n_steps) - WARM_UP - 1  # The last step of an episode is another kind.
    if not 1 <= args.steps <= longest or args.repeats < 1:
        parser.error(f"--steps must lie in 1..{longest} and --repeats be at least 1")

    images, labels = make_examples(train=True)
    # DACBench's transforms, done once for all: scale to [0, 1], then (x - 0.5) / 0.5.
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)
    targets = torch.tensor(labels)

    repeats = []
    for seed in range(args.repeats):
        dacbench_speed = time_dacbench(env, args.steps, seed)
        bare_speed = time_bare_loop(env, inputs, targets, BARE_FACTOR * args.steps)
        repeats.append({"dacbench": round(dacbench_speed, 3), "bare_loop": round(bare_speed, 3)})
    result = {
        "dacbench_steps_per_second": statistics.median(each["dacbench"] for each in repeats),
        "bare_loop_steps_per_second": statistics.median(each["bare_loop"] for each in repeats),
        "repeats": repeats,
        "model": " ".join(repr(env.model).split()),
        "n_params": sum(parameter.numel() for parameter in env.model.parameters()),
        "optimizer": type(env.optimizer).__name__,
        "batch_size": BATCH_SIZE,
        "steps": args.steps,
        "dacbench_version": dacbench.__version__,
        "torch_version": torch.__version__,
    }
    line = json.dumps(result)
    print(line)
    if args.json:
        args.json.write_text(line + "\n")


if __name__ == "__main__":
    main()
