"""No reward can be cheated: none of these tricks earns more than training honestly does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainpilot.envs.config import REWARD_NAMES, EnvConfig, RewardConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.levels import HIGHEST_LEVEL, LOWEST_LEVEL, START_LEVEL, level
from trainpilot.envs.limits import BoundsConfig, GuardConfig
from trainpilot.envs.optimizers import optimizer_index
from trainpilot.envs.reference import measure_reference
from trainpilot.envs.rewards import REWARDS, LogImprovement
from trainpilot.envs.task_reference import TaskReference
from trainpilot.inner_tasks import TensorTask

every_reward = pytest.mark.parametrize("name", REWARD_NAMES)

DECISIONS = 12
SEEDS = range(100, 106)
#: A good constant rate, one that ruins what was learned for good, and none.
GOOD, RUINOUS, NONE = 3e-2, 10.0, 1e-7
#: What blows a run up within a decision, and what leads it back in the decisions after it.
BLOW_UP = {"optimizer": optimizer_index("rmsprop"), "learning_rate": 1.0}
DECAY = {"learning_rate": 0.06, "weight_decay": 8.0}
RECOVER = {"learning_rate": 0.06}


def schedule(decision):
    """A cosine from twice the good rate."""
    return GOOD * (1 + np.cos(np.pi * decision / DECISIONS))


# A controller says, for a decision and whether the run has been at its target, what of the
# hyperparameters is other than Adam at the good rate.
HONEST = {
    "constant": lambda decision, arrived: {},
    "decaying": lambda decision, arrived: {"learning_rate": schedule(decision)},
}
CHEATS = {
    "oscillating": lambda decision, arrived: {
        4: BLOW_UP,
        5: DECAY,
        9: BLOW_UP,
        10: DECAY,
    }.get(decision, RECOVER),
    "oscillating late": lambda decision, arrived: (
        (BLOW_UP, DECAY)[decision % 2] if decision >= 6 else {}
    ),
    "blowing up at once and recovering": lambda decision, arrived: (
        (BLOW_UP, DECAY)[decision] if decision < 2 else RECOVER
    ),
    "blowing up late and recovering": lambda decision, arrived: {6: BLOW_UP, 7: DECAY}.get(
        decision, RECOVER
    ),
    "ruining all at once": lambda decision, arrived: {"learning_rate": RUINOUS},
    "never training": lambda decision, arrived: {"learning_rate": NONE},
    "shrinking the batch": lambda decision, arrived: {"batch_size": 8 if decision < 6 else 1},
    "growing the batch": lambda decision, arrived: {"batch_size": 1 if decision < 6 else 8},
    "largest batch": lambda decision, arrived: {"batch_size": 8},
    "decaying weights away": lambda decision, arrived: {"weight_decay": 10.0},
    "diverging at once": lambda decision, arrived: {"learning_rate": 1e6},
    "diverging in the middle": lambda decision, arrived: {
        "learning_rate": 1e6 if decision >= 6 else GOOD
    },
    "diverging at the end": lambda decision, arrived: {
        "learning_rate": 1e6 if decision == DECISIONS - 1 else GOOD
    },
    "touching the target once": lambda decision, arrived: {
        "learning_rate": RUINOUS if arrived else schedule(decision)
    },
    "switching back and forth": lambda decision, arrived: {
        "optimizer": optimizer_index(("adam", "rmsprop")[decision % 2])
    },
    "switching to sgd and back": lambda decision, arrived: {
        "optimizer": optimizer_index(("adam", "sgd")[decision % 2]),
        "learning_rate": (GOOD, 30 * GOOD)[decision % 2],
    },
}


def task():
    """Two classes on either side of a plane, 1,000 examples, an MLP with 114 parameters."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 8, generator=generator)
    return TensorTask(
        "halves",
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)),
        inputs=inputs,
        targets=(inputs.sum(1) > 0).long(),
        micro_batch_size=20,
    )


def configuration(name="log_improvement", **guard):
    return EnvConfig(
        decisions=DECISIONS,
        micro_batches_per_decision=10,
        evaluation_size=1000,
        bounds=BoundsConfig(learning_rate_high=1e6, weight_decay_high=10.0, batch_size_high=8),
        reward=RewardConfig(name),
        guard=GuardConfig(**{"on_divergence": "end"} | guard),
    )


class Played(NamedTuple):
    """What came of a run: return, how it ended, whether it was at its target once, its levels."""

    earned: float
    end: str
    arrived: bool
    curve: np.ndarray


@pytest.fixture(scope="module")
def reference():
    return measure_reference(InnerRuns(task(), 14, configuration()))


def play(runs, controllers, seed=100):
    """What came of each controller's run, side by side on the same seed."""
    rows = range(runs.n_runs)
    starts = [Hyperparameters.full(1, learning_rate=GOOD)] * runs.n_runs
    runs.reset(rows, [seed] * runs.n_runs, starts)
    start_loss = runs.engine.evaluate()[1].loss
    earned, arrived = np.zeros(runs.n_runs), np.zeros(runs.n_runs, dtype=bool)
    ends, curves = [""] * runs.n_runs, [[START_LEVEL] for _ in rows]
    for decision in range(runs.config.decisions):
        asked = Hyperparameters.full(runs.n_runs, learning_rate=GOOD)
        for row, controller in zip(rows, controllers.values(), strict=True):
            for name, value in controller(decision, arrived[row]).items():
                getattr(asked, name)[row] = value
        outcome = runs.step(asked)
        levels = level(outcome.outer_valid.loss, start_loss)
        for row in rows:
            if ends[row]:
                continue
            earned[row] += outcome.reward[row]
            curves[row].append(levels[row])
            arrived[row] |= levels[row] <= runs.references.final_level[row]
            if outcome.terminated[row]:
                ends[row] = "hopeless" if outcome.hopeless[row] else "diverged"
        # Rows that have ended must start anew; what they do then does not count.
        ended = np.flatnonzero(outcome.terminated).tolist()
        runs.reset(ended, [seed] * len(ended), starts[: len(ended)])
    return {
        name: Played(earned[row], ends[row] or "truncated", arrived[row], np.array(curves[row]))
        for row, name in enumerate(controllers)
    }


def mean_returns(name, reference, **guard):
    """Of every honest controller and every trick over the seeds, and what came of each seed."""
    controllers = HONEST | CHEATS
    runs = InnerRuns(task(), len(controllers), configuration(name, **guard), reference)
    seeds = [play(runs, controllers, seed) for seed in SEEDS]
    return {each: np.mean([p[each].earned for p in seeds]) for each in controllers}, seeds


def swings(curve):
    """How often a curve rises by more than 1, above where it began, and comes back by 1."""
    count, lowest, highest = 0, curve[0], None
    for value in curve:
        if highest is None:
            lowest = min(lowest, value)
            if value > max(lowest + 1, START_LEVEL):
                highest = value
        else:
            highest = max(highest, value)
            if value < highest - 1:
                count, lowest, highest = count + 1, value, None
    return count


@every_reward
@pytest.mark.parametrize(
    "guard",
    [{}, {"hopeless_share": 0.3, "hopeless_after": 0.2}, {"on_divergence": "roll_back"}],
)
def test_no_trick_earns_more_than_honest_training(reference, name, guard):
    returns, seeds = mean_returns(name, reference, **guard)
    # The tricks are what they are called: otherwise nothing would be shown.
    for played in seeds:
        assert played["decaying"].arrived
        assert played["touching the target once"].arrived
        for cheat in CHEATS:
            # Rolled back, a run that diverges goes on, and may be ended later.
            if cheat.startswith("diverging") and "on_divergence" not in guard:
                assert played[cheat].end == "diverged", cheat
            elif not cheat.startswith("diverging"):
                assert played[cheat].end != "diverged", cheat
        assert (played["never training"].end == "hopeless") == ("hopeless_share" in guard)
    best = max(returns[honest] for honest in HONEST)
    assert {cheat: returns[cheat] for cheat in CHEATS if returns[cheat] >= best} == {}


def test_what_is_called_oscillating_and_recovering_rises_and_comes_back(reference):
    for played in mean_returns("log_improvement", reference)[1]:
        assert swings(played["oscillating"].curve) == 2
        assert swings(played["oscillating late"].curve) >= 2
        for when in ("at once", "late"):
            curve = played[f"blowing up {when} and recovering"].curve
            assert swings(curve) == 1
            assert curve.max() > 1
            assert curve[-1] < -1.5
        assert not any(swings(played[honest].curve) for honest in HONEST)


class ClippedImprovement(LogImprovement):
    """The mistake of old: not the level is bounded but its increments."""

    def _earned(self, stretch, references):
        clipped = np.clip(stretch.after - stretch.before, -1, 1)
        return super()._earned(stretch._replace(before=stretch.after - clipped), references)


def test_clipped_increments_would_pay_for_oscillating(reference, monkeypatch):
    """So that the tricks above are such as a faulty reward pays for."""
    monkeypatch.setitem(REWARDS, "log_improvement", ClippedImprovement)
    returns, _ = mean_returns("log_improvement", reference)
    assert returns["oscillating"] > max(returns[honest] for honest in HONEST)


@every_reward
def test_the_batch_size_as_such_earns_nothing(reference, name):
    controllers = {
        str(size): lambda decision, arrived, size=size: {
            "learning_rate": 0.0,
            "batch_size": size,
        }
        for size in (1, 3, 8)
    }
    config = configuration(name)
    config.bounds.learning_rate_low = 1e-30
    earned = [
        row.earned for row in play(InnerRuns(task(), 3, config, reference), controllers).values()
    ]
    np.testing.assert_allclose(earned, earned[0], rtol=1e-6)


@every_reward
def test_fitting_valid_by_decay_earns_less_than_training(bowls, name):
    # `valid` is best at 0, where weight decay leads; `outer_valid` where training leads.
    played_on = bowls(train=(1.0, -2.0), valid=(0.0, 0.0), outer_valid=(1.0, -2.0))
    runs = InnerRuns(played_on, 2, configuration(name), TaskReference((-1.0, -2.0)))
    controllers = {
        "honest": lambda decision, arrived: {"learning_rate": 0.1},
        "fitting valid": lambda decision, arrived: {"learning_rate": 0.1, "weight_decay": 5.0},
    }
    played = play(runs, controllers)
    valid, outer_valid = runs.engine.evaluate()
    assert valid.loss[1] < valid.loss[0]
    assert outer_valid.loss[1] > outer_valid.loss[0]
    assert played["fitting valid"].earned < played["honest"].earned


@every_reward
def test_where_training_fits_valid_and_ruins_outer_valid_it_earns_less_than_nothing_done(
    bowls, name
):
    played_on = bowls(train=(-1.0, 2.0), valid=(-1.0, 2.0), outer_valid=(4.0, -3.0))
    runs = InnerRuns(played_on, 2, configuration(name), TaskReference((-0.5, -1.0)))
    controllers = {
        "never training": CHEATS["never training"],
        "fitting valid": lambda decision, arrived: {"learning_rate": 0.1},
    }
    played = play(runs, controllers)
    assert runs.engine.evaluate()[0].loss[1] < 0.1
    assert played["fitting valid"].earned < played["never training"].earned


levels = st.floats(LOWEST_LEVEL, HIGHEST_LEVEL)
curves = st.lists(levels, min_size=DECISIONS, max_size=DECISIONS)
references = st.lists(levels, min_size=1, max_size=6).map(lambda c: TaskReference(tuple(c)))
configs = st.sampled_from(REWARD_NAMES).map(RewardConfig)


@given(configs, curves, references)
def test_blowing_up_and_recovering_never_pays(rewards_of, config, curve, reference):
    calm = [min(value, START_LEVEL) for value in curve[:-1]] + curve[-1:]
    blown = rewards_of(config, curve, reference).sum()
    assert blown <= rewards_of(config, calm, reference).sum() + 1e-7


@given(configs, levels, levels, references)
def test_oscillating_never_pays(rewards_of, config, one, other, reference):
    best = rewards_of(config, [min(one, other)] * DECISIONS, reference).sum()
    for first, second in ((one, other), (other, one)):
        swinging = rewards_of(config, [first, second] * (DECISIONS // 2), reference).sum()
        assert swinging <= best + 1e-7


@given(configs, curves, references, st.integers(0, DECISIONS - 1))
def test_diverging_never_pays(rewards_of, config, curve, reference, when):
    ended = rewards_of(config, curve, reference, diverged_at=when).sum()
    assert ended <= rewards_of(config, curve, reference).sum() + 1e-7


@given(configs, curves, references, st.integers(0, DECISIONS - 1))
def test_being_given_up_earns_at_most_what_staying_there_would(
    rewards_of, config, curve, reference, when
):
    stayed = rewards_of(
        config, curve[: when + 1] + [curve[when]] * (DECISIONS - when - 1), reference
    ).sum()
    ended = rewards_of(config, curve, reference, hopeless_at=when).sum()
    if config.name == "time_to_target":  # a run that was ended is not at its target
        assert ended <= stayed + 1e-7
    else:
        assert ended == pytest.approx(stayed, abs=1e-7)


@given(references, st.integers(0, DECISIONS - 1))
def test_touching_the_target_saves_the_decisions_there_and_no_more(rewards_of, reference, when):
    config = RewardConfig("time_to_target", shaping=0.0)
    never = [HIGHEST_LEVEL] * DECISIONS
    touched = [
        START_LEVEL - reference.span if d == when else HIGHEST_LEVEL for d in range(DECISIONS)
    ]
    difference = rewards_of(config, touched, reference).sum()
    assert difference - rewards_of(config, never, reference).sum() == pytest.approx(1 / DECISIONS)
