"""Successive halving: which trials end early, and what is spent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.evaluation.asha import Asha
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig

CONFIG = EnvConfig(decisions=32, micro_batches_per_decision=1)


def trained(halving, loss, diverges_after=math.inf):
    """Decisions that the next trial makes if its loss is always the same."""
    halving.next()
    run = Run("task", "trial", 0, 1, valid_loss=[9.0])
    for made in range(1, CONFIG.decisions + 1):
        run.valid_loss.append(loss)
        run.diverged = made >= diverges_after
        if halving.report(run):
            return made
    raise AssertionError("a trial must end with its budget")


def test_poor_trials_end_at_a_rung_and_good_ones_go_on():
    halving = Asha().halvings("task", [0], CONFIG)[0]
    # The lowest quarter of those at a rung goes on, and at least the lowest. Rungs: 2, 8.
    assert trained(halving, 1.0) == 32
    assert trained(halving, 2.0) == 2
    assert trained(halving, 0.5) == 32
    assert trained(halving, 0.7) == 2
    assert halving.lengths == [32, 2, 32, 2]


def test_the_best_of_those_that_reach_their_end_wins_and_what_diverges_ends_at_once():
    halving = Asha().halvings("task", [0], CONFIG)[0]
    generator = np.random.default_rng(choice_seed(0, "task"))
    drawn = [Asha().space.draw(generator) for _ in range(3)]
    assert trained(halving, 1.0) == 32
    assert halving.best == drawn[0]
    assert trained(halving, 0.1, diverges_after=5) == 5
    assert halving.best == drawn[0]
    assert trained(halving, 0.05) == 32
    assert halving.best == drawn[2]


def test_until_a_trial_ends_the_one_that_came_furthest_is_the_best():
    space = Asha().space
    generator = np.random.default_rng(choice_seed(0, "task"))
    drawn = [space.draw(generator) for _ in range(6)]
    halving = Asha().halvings("task", [0], CONFIG)[0]
    assert trained(halving, 0.1, diverges_after=1) == 1
    assert halving.best == drawn[0]
    # Passes the rungs 2 and 8, and is no answer for all that.
    assert trained(halving, 0.2, diverges_after=20) == 20
    assert halving.best == drawn[0]
    assert trained(halving, 3.0) == 2
    assert halving.best == drawn[2]
    assert trained(halving, 4.0) == 2
    assert halving.best == drawn[2]
    assert trained(halving, 2.0) == 2
    assert halving.best == drawn[4]
    assert trained(halving, 0.15) == 32
    assert halving.best == drawn[5]


def test_a_trial_that_goes_on_counts_until_it_diverges():
    generator = np.random.default_rng(choice_seed(0, "task"))
    drawn = [Asha().space.draw(generator) for _ in range(2)]
    halving = Asha().halvings("task", [0], CONFIG)[0]
    assert trained(halving, 0.1, diverges_after=1) == 1
    halving.next()
    assert halving.best == drawn[1]
    run = Run("task", "trial", 0, 1, valid_loss=[9.0, 1.0, 1.0])
    assert not halving.report(run)
    assert halving.best == drawn[1]
    run.valid_loss.append(1.0)
    run.diverged = True
    assert halving.report(run)
    assert halving.best == drawn[0]


@pytest.mark.parametrize("diverges_after", [1, 2])
def test_what_diverges_is_among_those_at_its_rung(diverges_after):
    halving = Asha().halvings("task", [0], CONFIG)[0]
    assert trained(halving, 1.0) == 32
    for _ in range(6):
        assert trained(halving, 0.5, diverges_after) == diverges_after
    # The second of eight at the rung, of which two go on.
    assert trained(halving, 2.0) > 2


def test_no_more_is_spent_than_was_given(moons, monkeypatch):
    search = Asha(budgets=(1, 6))
    halvings = search.halvings("moons", [0, 1], CONFIG)
    monkeypatch.setattr(search, "halvings", lambda *_: halvings)
    spent = []
    found = search.find(moons, [0, 1], CONFIG, lambda: spent.append(1))
    assert len(spent) == 2 * 6 * 32
    for halving in halvings:
        assert sum(halving.lengths) <= 6 * 32
        # Many more configurations than six are seen, most of them for 2 decisions alone.
        assert len(halving.lengths) > 12
        assert np.median(halving.lengths) == 2
        assert halving.lengths[0] == 32
    assert [len(by_seed) for by_seed in found] == [2, 2]


@pytest.mark.parametrize(("decisions", "rung"), [(30, 2), (5, 1), (64, 4)])
def test_the_first_rung_is_a_share_of_the_budget(decisions, rung):
    config = EnvConfig(decisions=decisions)
    halving = Asha().halvings("task", [0], config)[0]
    for loss in (1.0, 2.0):
        halving.next()
        run = Run("task", "trial", 0, 1, valid_loss=[9.0, loss])
        made = 1
        while not halving.report(run):
            run.valid_loss.append(loss)
            made += 1
    assert made == rung
