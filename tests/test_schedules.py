"""Schedules against torch.optim.lr_scheduler, inner step by inner step."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from trainpilot.agents.controller import Controller, View
from trainpilot.agents.controllers import make_controllers
from trainpilot.agents.evaluation.fingerprints import fingerprint_of_contender
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.rollout import roll_out
from trainpilot.agents.schedules import (
    CosineWithWarmup,
    Exponential,
    LearningRateSchedule,
    Linear,
    OneCycle,
    StepDecay,
)
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig, EnvConfig
from trainpilot.envs.data_order import data_order
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.limits import BoundsConfig
from trainpilot.envs.observation import FEATURES
from trainpilot.inner_tasks import TrainpilotError

RATE = 0.01
ACTIONS = ActionSpec(ActionConfig())
#: Decisions and micro-batches of each.
BUDGETS = [(1, 1), (2, 1), (1, 3), (5, 1), (2, 5), (4, 7), (30, 10), (25, 40)]


def decide(controller, decisions, micro_batches, decision, n_runs=2, guard_scale=1.0):
    return controller.decide(
        View(
            np.zeros((n_runs, len(FEATURES)), dtype=np.float32),
            Hyperparameters.full(n_runs),
            np.ones(n_runs),
            decision,
            decisions,
            guard_scale,
            micro_batches,
        )
    )


def rates(controller, decisions, micro_batches):
    """The learning rate of every inner step of the second of two runs."""
    controller.begin(2, ACTIONS, seed=0)
    found = []
    for decision in range(decisions):
        decided = decide(controller, decisions, micro_batches, decision)
        assert decided.learning_rate_factors.shape == (2, micro_batches)
        assert decided.learning_rate_factors[1, 0] == 1  # what is on record holds at the start
        found.append(decided.hyperparameters.learning_rate[1] * decided.learning_rate_factors[1])
    return np.concatenate(found)


def torch_rates(make, budget):
    """The learning rate of every step under a torch scheduler."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler = make(optimizer)
    found = []
    for _ in range(budget):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(found) < budget:
            scheduler.step()
    return found


def cosine(optimizer, budget, share):
    warmup = min(round(share * budget), budget - 1)
    annealing = CosineAnnealingLR(optimizer, T_max=budget - warmup)
    if warmup == 0:
        return annealing
    rising = LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(warmup - 1, 1))
    return SequentialLR(optimizer, [rising, annealing], milestones=[warmup])


def steps(optimizer, budget, shares, gamma):
    milestones = [next(t for t in range(budget + 1) if t / budget >= share) for share in shares]
    return MultiStepLR(optimizer, milestones, gamma=gamma)


def one_cycle(optimizer, budget, **settings):
    return OneCycleLR(optimizer, RATE, total_steps=budget, cycle_momentum=False, **settings)


SCHEDULES = {
    "cosine": (CosineWithWarmup("sgd", RATE), lambda o, t: cosine(o, t, 0.1)),
    "cosine, long warm-up": (
        CosineWithWarmup("sgd", RATE, warmup=0.4),
        lambda o, t: cosine(o, t, 0.4),
    ),
    "cosine, no warm-up": (
        CosineWithWarmup("sgd", RATE, warmup=0),
        lambda o, t: CosineAnnealingLR(o, T_max=t),
    ),
    "one cycle": (OneCycle("sgd", RATE), one_cycle),
    "one cycle, other settings": (
        OneCycle("sgd", RATE, pct_start=0.45, div_factor=5, final_div_factor=10),
        lambda o, t: one_cycle(o, t, pct_start=0.45, div_factor=5, final_div_factor=10),
    ),
    "step decay": (StepDecay("sgd", RATE), lambda o, t: steps(o, t, [0.5, 0.75], 0.1)),
    "step decay, other settings": (
        StepDecay("sgd", RATE, milestones=[0.3, 0.3, 0.7], factor=0.5),
        lambda o, t: steps(o, t, [0.3, 0.3, 0.7], 0.5),
    ),
    "linear": (
        Linear("sgd", RATE),
        lambda o, t: LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=t),
    ),
    "linear, other settings": (
        Linear("sgd", RATE, end_factor=0.2),
        lambda o, t: LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=t),
    ),
    "exponential": (Exponential("sgd", RATE), lambda o, t: ExponentialLR(o, 0.01 ** (1 / t))),
}


@pytest.mark.parametrize(("decisions", "micro_batches"), BUDGETS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_inner_step_has_the_rate_that_torch_gives_it(name, decisions, micro_batches):
    controller, make = SCHEDULES[name]
    budget = decisions * micro_batches
    expected = torch_rates(lambda optimizer: make(optimizer, budget), budget)
    np.testing.assert_allclose(rates(controller, decisions, micro_batches), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cosine", CosineWithWarmup),
        ("one_cycle", OneCycle),
        ("step_decay", StepDecay),
        ("linear", Linear),
        ("exponential", Exponential),
    ],
)
def test_what_ships_is_the_schedule_at_its_defaults(name, kind):
    config = OmegaConf.load(files("trainpilot.conf") / "controller" / f"{name}.yaml")
    made = make_controllers(config)[name]
    assert made == kind("adam", RATE)
    assert fingerprint_of_contender(made) == fingerprint_of_contender(kind("adam", RATE))
    assert fingerprint_of_contender(made) is not None


def test_adamw_ships_with_the_defaults_of_torch():
    config = OmegaConf.load(files("trainpilot.conf") / "controller" / "adamw.yaml")
    default = torch.optim.AdamW([torch.zeros(1)]).defaults
    expected = Constant("adamw", default["lr"], weight_decay=default["weight_decay"])
    assert make_controllers(config)["adamw"] == expected


def test_phases_of_no_length_that_torch_cannot_divide_by():
    np.testing.assert_allclose(
        rates(OneCycle("sgd", RATE, pct_start=0.5), 2, 1), [RATE / 25, RATE / 25e4]
    )
    np.testing.assert_allclose(rates(OneCycle("sgd", RATE, pct_start=1), 1, 1), [RATE / 25])


def test_the_guards_scale_holds_for_every_step():
    controller = CosineWithWarmup("sgd", RATE)
    controller.begin(2, ACTIONS, 0)
    free = decide(controller, 5, 4, 2)
    held = decide(controller, 5, 4, 2, guard_scale=np.array([1.0, 0.3]))
    np.testing.assert_allclose(
        held.hyperparameters.learning_rate, free.hyperparameters.learning_rate * [1, 0.3]
    )
    np.testing.assert_array_equal(held.learning_rate_factors, free.learning_rate_factors)


@pytest.mark.parametrize("name", ["moons", "uncommon_moons"])
def test_a_run_under_cosine_is_that_of_a_plain_torch_loop(name, request):
    """On both kinds of trainer, beside a run whose learning rate does not change."""
    task = request.getfixturevalue(name)
    config = EnvConfig(decisions=5, micro_batches_per_decision=8)
    controllers = {"still": Constant("adam", RATE), "cosine": CosineWithWarmup("adam", RATE)}
    rollout = roll_out(task, controllers, [4], config)
    torch.manual_seed(4)
    model = task.make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    scheduler = cosine(optimizer, 40, 0.1)
    train = task.splits.train
    first = []
    for step, indices in enumerate(data_order(4, len(train.inputs), 40, 10)):
        if step % 8 == 0:
            first.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        task.loss(model(train.inputs[indices]), train.targets[indices]).backward()
        optimizer.step()
        scheduler.step()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(rollout.weights(1)[key], value, rtol=1e-4, atol=1e-6)
        assert (rollout.weights(0)[key] - value).abs().max() > 1e-3
    records = rollout.runs[1].decisions
    np.testing.assert_allclose([record["learning_rate"] for record in records], first)
    assert [record["learning_rate_before"] for record in records[1:]] == [
        record["learning_rate"] for record in records[:-1]
    ]
    assert not any(record["clamped"] for record in records)


def test_a_neighbour_with_a_schedule_changes_nothing_for_a_constant(moons):
    config = EnvConfig(decisions=3, micro_batches_per_decision=4)
    alone = roll_out(moons, {"a": Constant("adam", RATE)}, [4, 5], config).runs
    beside = roll_out(
        moons, {"a": Constant("adam", RATE), "b": Linear("adam", RATE)}, [4, 5], config
    ).runs
    for one, two in zip(alone, beside[:2], strict=True):
        assert one.decisions == two.decisions
    assert beside[2].outer_valid_loss[-1] != beside[0].outer_valid_loss[-1]


def test_a_step_that_the_bounds_change_is_on_record(moons):
    config = EnvConfig(
        decisions=2,
        micro_batches_per_decision=4,
        bounds=BoundsConfig(learning_rate_low=RATE / 2),
    )
    run = roll_out(moons, {"linear": Linear("adam", RATE)}, [4], config).runs[0]
    assert [record["clamped"] for record in run.decisions] == [False, True]
    assert [record["learning_rate"] for record in run.decisions] == [RATE, RATE / 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineWithWarmup("sgd", 0.1, warmup=1), r"warmup must lie in \[0, 1\)"),
        (lambda: StepDecay("sgd", 0.1, milestones=[2]), r"milestones must lie in \(0, 1\)"),
        (lambda: StepDecay("sgd", 0.1, factor=1), r"factor must lie in \(0, 1\); given: 1"),
        (lambda: OneCycle("sgd", 0.1, pct_start=2), r"pct_start must lie in \[0, 1\]; given: 2"),
        (lambda: OneCycle("sgd", 0.1, div_factor=0), "div_factor must be above 0; given: 0"),
        (lambda: OneCycle("sgd", 0.1, final_div_factor=0), "final_div_factor must be above 0"),
        (lambda: Linear("sgd", 0.1, end_factor=-1), r"end_factor must lie in \[0, 1\]; given: -1"),
        (lambda: Exponential("sgd", 0.1, end_factor=0), r"end_factor must lie in \(0, 1\]"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(TrainpilotError, match=message):
        make()


def test_a_schedule_of_ones_own_is_one_method():
    class Halved(LearningRateSchedule):
        def multipliers(self, steps, budget):
            return np.where(steps < budget / 2, 1.0, 0.5)

    controller = Halved("sgd", RATE)
    assert isinstance(controller, Controller)
    np.testing.assert_array_equal(rates(controller, 2, 3), [RATE] * 3 + [RATE / 2] * 3)
