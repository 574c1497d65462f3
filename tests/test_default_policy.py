"""The policies that ship: a guard against regressions, on `meta_valid` alone."""

from __future__ import annotations

from statistics import fmean, geometric_mean

import numpy as np
import pytest

from trainpilot.agents.evaluation.measures import samples_to_target, target_of
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.policy_file import load_policy
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.catalogue import load_task

#: Speed-up, test loss over Adam's and learning rates after 1, 6, 11, 21 and 30 decisions
#: (geometric means of four seeds), as measured when the policy was shipped.
MEASURED = {
    ("default", "bananas_mlp"): (6.34, 0.550, [0.0300, 0.0974, 0.0734, 0.0340, 0.0189]),
    ("default", "photographs_cnn"): (3.09, 0.839, [0.0300, 0.0576, 0.0278, 0.0145, 0.0063]),
    ("default", "syllables_mlp"): (6.97, 0.560, [0.0300, 0.0288, 0.0152, 0.0029, 0.0016]),
    ("rate_only", "bananas_mlp"): (6.12, 0.592, [0.0074, 0.0199, 0.0110, 0.0047, 0.0024]),
    ("rate_only", "photographs_cnn"): (2.36, 0.914, [0.0100, 0.0093, 0.0076, 0.0046, 0.0030]),
    ("rate_only", "syllables_mlp"): (3.66, 0.701, [0.0100, 0.0046, 0.0069, 0.0035, 0.0019]),
}


@pytest.mark.parametrize(("policy", "task"), MEASURED)
def test_it_is_on_tasks_that_it_never_saw_what_it_was_when_it_was_shipped(policy, task):
    speedup, loss, rates = MEASURED[policy, task]
    controllers = {"policy": load_policy(policy), "adam": Constant("adam", 1e-3)}
    runs = roll_out(load_task(task), controllers, range(100, 104), EnvConfig()).runs
    steered, adam = runs[:4], runs[4:]
    targets = [target_of(run) for run in adam]
    pairs = list(zip(steered, targets, strict=True))
    speedups = [target.samples / samples_to_target(run, target.loss) for run, target in pairs]
    # Another machine's rounding moves single curves across their targets.
    assert geometric_mean(speedups) == pytest.approx(speedup, rel=0.25)
    measured = fmean(run.test_loss for run in steered) / fmean(run.test_loss for run in adam)
    assert measured == pytest.approx(loss, rel=0.1)
    logs = [[np.log(record["learning_rate"]) for record in run.decisions] for run in steered]
    chosen = np.exp(np.mean(logs, axis=0))[[0, 5, 10, 20, 29]]
    np.testing.assert_allclose(chosen, rates, rtol=0.3)
    assert not any(run.diverged or run.roll_backs for run in steered)
