"""The reference finds the best fixed configuration where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from trainpilot.envs.config import EnvConfig
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.levels import level
from trainpilot.envs.reference import grid, measure_reference


def test_on_a_quadratic_the_grid_reaches_the_optimum(quadratic):
    config = EnvConfig(decisions=5, micro_batches_per_decision=20)
    reference = measure_reference(InnerRuns(quadratic, 8, config), n_seeds=1)
    # SGD's rate 0.9 (0.03 in Adam's units) with momentum 0.9 contracts by sqrt(0.9) a step:
    # after 100 steps the squared distance is about 0.9 ** 100 of the start's.
    best = level(np.array([0.9**100]), np.ones(1))[0]
    assert reference.final_level == pytest.approx(best, abs=0.02)
    assert reference.span > 3.5
    # The whole curve of that configuration is kept, a level a decision.
    assert len(reference.curve) == 5
    assert list(reference.curve) == sorted(reference.curve, reverse=True)


def test_the_number_of_rows_does_not_change_the_result(moons):
    config = EnvConfig(decisions=2, micro_batches_per_decision=5)
    levels = [measure_reference(InnerRuns(moons, n, config)).final_level for n in (5, 16)]
    assert levels[0] == pytest.approx(levels[1], abs=1e-4)


def test_the_grid_holds_every_optimizer_with_every_rate():
    rows = [configuration.row(0) for configuration in grid()]
    assert len(rows) == 21
    rates = [row["learning_rate"] for row in rows if row["optimizer"] == "sgd"]
    np.testing.assert_allclose(rates, 30 * np.array([1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]))
