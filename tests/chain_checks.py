"""What tests of the trainer in C++ hold it to: the same training by torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, OPTIMIZER_NAMES
from trainpilot.inner_tasks import TensorTask

#: One for each optimizer of the menu.
N_RUNS = 6
OURS = "inner runs are trained by C++ of our own"


def classification(model, inputs: Tensor, n_classes: int, micro_batch_size: int) -> TensorTask:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(n_classes, (len(inputs),), generator=generator)
    return TensorTask(
        "chain", model=model, inputs=inputs, targets=targets, micro_batch_size=micro_batch_size
    )


def varied(n_runs: int, **settings) -> Hyperparameters:
    """Every optimizer, with rates that do not amplify rounding."""
    index = np.arange(n_runs) % len(OPTIMIZER_NAMES)
    rates = 3e-3 * np.array(LEARNING_RATE_SCALES)[index]
    full = Hyperparameters.full(n_runs, **settings)
    return replace(full, optimizer=index, learning_rate=rates)


def assert_trains_as_torch_does(task: TensorTask, n_steps: int = 6) -> None:
    """Signals, evaluations and weights of the two trainers."""
    found = []
    for compiled in (False, None):
        engine = Engine(task, N_RUNS, n_micro_batches=n_steps, compiled=compiled, max_batch_size=2)
        assert (engine.report == OURS) == (compiled is None), engine.report
        engine.reset(range(N_RUNS), range(N_RUNS))
        hyperparameters = replace(
            varied(N_RUNS, weight_decay=0.1), batch_size=np.array([1, 2, 1, 1, 2, 1]),
            gradient_clip=np.array([0.1, 1e9, 1e9, 0.5, 1e9, 1e9]),
        )  # fmt: skip
        signals = engine.advance(hyperparameters, n_steps)
        evaluations = [*engine.evaluate(), engine.evaluate_split(task.splits.train)]
        found.append((signals, evaluations, [engine.state_dict(row) for row in range(N_RUNS)]))
    (signals, evaluations, weights), (others, other_evaluations, other_weights) = found
    for name, one, other in zip(signals._fields, signals, others, strict=True):
        # Where an activation is all but zero, rounding decides whether ReLU lets it pass.
        lengths = name.endswith("norm") or name == "train_loss"
        np.testing.assert_allclose(other, one, rtol=1e-2, atol=1e-6 if lengths else 1e-2)
        known = np.isfinite(one) & (one != 0)
        assert np.median(np.abs(other[known] / one[known] - 1)) < 1e-4
    for one, other in zip(evaluations, other_evaluations, strict=True):
        np.testing.assert_allclose(other.loss, one.loss, rtol=2e-3, atol=1e-6)
        assert one.metrics.keys() == other.metrics.keys()
        for name, values in one.metrics.items():
            np.testing.assert_allclose(other.metrics[name], values, rtol=2e-3, atol=2e-2)
    for one, other in zip(weights, other_weights, strict=True):
        for name, value in one.items():
            # As a whole: where a gradient is all but zero, rounding turns Lion's sign.
            assert (other[name] - value).norm() < 0.01 * value.norm() + 3e-3
