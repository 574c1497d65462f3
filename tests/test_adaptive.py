"""Optimizers of other packages as methods: the runs that a plain torch loop would make."""

from __future__ import annotations

import math
from importlib.metadata import version
from importlib.resources import files

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from prodigyopt import Prodigy
from pytorch_optimizer import SWATS
from schedulefree import AdamWScheduleFree

from trainpilot.agents.evaluation.adaptive import AdaptiveOptimizer, train_side_by_side
from trainpilot.agents.evaluation.contenders import KINDS, Contender
from trainpilot.agents.evaluation.hypergradient import AdamHD
from trainpilot.agents.evaluation.jobs import make_jobs, run_jobs
from trainpilot.agents.evaluation.method import Method
from trainpilot.agents.evaluation.optimized_runs import OptimizedRuns
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.records import write_decisions
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.data_order import data_order
from trainpilot.envs.engine import Engine
from trainpilot.envs.limits import GuardConfig
from trainpilot.inner_tasks.building import build
from trainpilot.inner_tasks.errors import TrainpilotError

CONFIG = EnvConfig(decisions=5, micro_batches_per_decision=4)
METHODS = ("schedule_free", "prodigy", "hypergradient", "swats")


def shipped(name):
    text = (files("trainpilot.conf") / "method" / f"{name}.yaml").read_text()
    return build(OmegaConf.to_container(OmegaConf.create(text))[name], Method, "method", name)


def plain_loop(task, make, seed, n_steps):
    """The model, trained as anybody would, and its optimizer."""
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = make(model.parameters())
    getattr(optimizer, "train", lambda: None)()
    train = task.splits.train
    for indices in data_order(seed, len(train.inputs), n_steps, task.micro_batch_size):
        optimizer.zero_grad()
        task.loss(model(train.inputs[indices]), train.targets[indices]).backward()
        optimizer.step()
    getattr(optimizer, "eval", lambda: None)()
    return model, optimizer


def schedule_free(parameters):
    return AdamWScheduleFree(parameters, lr=0.02)


def prodigy(parameters):
    # The package's estimate starts at 1e-6: from there, 30 steps would hardly show.
    return Prodigy(parameters, d0=1e-3)


def hypergradient(parameters):
    return AdamHD(parameters, lr=0.01, hypergradient_lr=1e-4)


@pytest.mark.parametrize(
    ("task", "make"),
    [
        ("moons", schedule_free),
        ("moons", prodigy),
        ("moons", hypergradient),
        ("moons", torch.optim.Adagrad),
        ("uncommon_moons", schedule_free),
    ],
)
def test_weights_are_those_of_a_plain_torch_loop(task, make, request):
    task = request.getfixturevalue(task)
    # More runs than a tile holds: the last rows are followed by padding.
    n_runs, steps = 17, 30
    engine = Engine(task, n_runs, n_micro_batches=steps, optimizers=["sgd"])
    engine.reset(range(n_runs), range(n_runs))
    trained = OptimizedRuns(engine, [lambda parameter: make([parameter])] * n_runs)
    for _ in range(3):
        trained.advance(10, np.ones(n_runs, dtype=bool))
        with trained.evaluation():
            weights = [engine.state_dict(row) for row in range(n_runs)]
    for row in (0, n_runs - 1):
        model, _ = plain_loop(task, make, row, steps)
        torch.manual_seed(row)
        start = task.make_model().state_dict()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(weights[row][name], value, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(value, start[name], atol=1e-3)


def test_the_rate_of_prodigy_is_its_estimate(moons):
    run = AdaptiveOptimizer("prodigyopt.Prodigy").train("prodigy", moons, [4], CONFIG)[0]
    _, optimizer = plain_loop(moons, Prodigy, 4, 20)
    estimate = optimizer.param_groups[0]["d"]
    assert estimate > 1e-5
    assert run.decisions[-1]["learning_rate"] == pytest.approx(estimate, rel=1e-3)


def test_swats_switches_where_the_package_does_for_all_weights_at_once(moons):
    # A tolerance so wide that it switches within the run.
    arguments = {"lr": 0.01, "eps": 0.3}
    method = AdaptiveOptimizer("pytorch_optimizer.SWATS", arguments)
    run = method.train("swats", moons, [4], CONFIG)[0]
    torch.manual_seed(4)
    model = moons.make_model()
    flat = torch.nn.Parameter(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    optimizer = SWATS([flat], **arguments)
    train = moons.splits.train
    for indices in data_order(4, len(train.inputs), 20, 10):
        torch.nn.utils.vector_to_parameters(flat.detach(), model.parameters())
        model.zero_grad()
        moons.loss(model(train.inputs[indices]), train.targets[indices]).backward()
        flat.grad = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        optimizer.step()
    group = optimizer.param_groups[0]
    assert group["phase"] == "sgd"
    assert run.decisions[-1]["learning_rate"] == pytest.approx(group["lr"], rel=1e-3)


def test_adam_by_this_route_is_adam_in_the_engine(moons):
    seeds = [4, 9]
    method = AdaptiveOptimizer("torch.optim.Adam", {"lr": 0.01})
    given = method.train("adam", moons, seeds, CONFIG)
    rollout = roll_out(moons, {"adam": Constant("adam", 0.01)}, seeds, CONFIG, held_out=True)
    for run, expected in zip(given, rollout.runs, strict=True):
        assert (run.task, run.controller, run.seed) == ("moons", "adam", expected.seed)
        assert run.budget == expected.budget
        assert run.samples == expected.samples
        for name in ("valid_loss", "outer_valid_loss", "test_curve", "accuracy_curve"):
            assert getattr(run, name) == pytest.approx(getattr(expected, name), rel=1e-4), name
            assert len(getattr(run, name)) == 6
        for name in ("test_loss", "test_metrics", "best_test_loss", "best_test_accuracy"):
            assert getattr(run, name) == pytest.approx(getattr(expected, name), rel=1e-4), name
        assert run.seconds > 0
        for record, other in zip(run.decisions, expected.decisions, strict=True):
            assert record.keys() <= other.keys() | {"batch_size"}
            assert record["samples"] == other["samples"]
            assert record["learning_rate"] == 0.01
            assert record["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
            assert record["optimizer"] == "Adam"
            assert record["batch_size"] == 1
            assert record["clamped"] is False


@pytest.mark.parametrize("name", METHODS)
def test_what_ships_trains_each_seed_the_same_beside_any_others(moons, name, tmp_path):
    method = shipped(name)
    assert method.names("x") == ["x"]
    assert method.kind in KINDS
    calls = []
    runs = method.train("x", moons, [4, 9, 2], CONFIG, lambda: calls.append(1))
    (alone,) = method.train("x", moons, [9], CONFIG)
    assert len(calls) == method.n_decisions(3, CONFIG) == 3 * 5
    assert [run.seed for run in runs] == [4, 9, 2]
    assert runs[1].outer_valid_loss == pytest.approx(alone.outer_valid_loss, rel=1e-5)
    assert runs[0].outer_valid_loss != pytest.approx(alone.outer_valid_loss, rel=1e-2)
    assert len(set(alone.outer_valid_loss)) == 6
    assert not alone.diverged
    write_decisions(tmp_path / "decisions.parquet", runs)


def test_the_fingerprint_tells_optimizers_and_arguments_apart():
    made = [*(shipped(name) for name in METHODS), AdaptiveOptimizer("prodigyopt.Prodigy")]
    made.append(AdaptiveOptimizer("prodigyopt.Prodigy", OmegaConf.create({"betas": [0.9, 0.99]})))
    prints = [method.fingerprint() for method in made]
    assert len(set(prints)) == len(prints)
    assert shipped("prodigy").fingerprint() == prints[1]
    assert f"prodigyopt {version('prodigyopt')}" in prints[1]


def test_a_run_that_diverges_ends_and_the_others_go_on(quadratic):
    config = EnvConfig(
        decisions=5, micro_batches_per_decision=4, guard=GuardConfig(max_loss_ratio=10)
    )
    # Gradient descent multiplies the loss by (1 - rate) ** 2 a step: 4 ** 4 in a decision.
    wild = AdaptiveOptimizer("torch.optim.SGD", {"lr": 3.0})
    (run,) = wild.train("wild", quadratic, [0], config)
    assert run.diverged
    assert run.samples == [0, 20]
    assert run.valid_loss[1] == pytest.approx(256 * run.valid_loss[0])
    assert len(run.valid_loss) == len(run.outer_valid_loss) == len(run.test_curve) == 2
    assert [record["intervention"] for record in run.decisions] == [
        "ended: valid loss is 256 times its start"
    ]
    assert run.test_loss == math.inf
    assert run.test_metrics == {}
    calm = AdaptiveOptimizer("torch.optim.SGD", {"lr": 0.5})
    (run,) = calm.train("calm", quadratic, [0], config)
    assert not run.diverged
    assert run.valid_loss[-1] == pytest.approx(run.valid_loss[0] * 0.25**20, rel=1e-4)


def test_weights_of_a_run_that_ended_stay(moons):
    engine = Engine(moons, 2, n_micro_batches=4, optimizers=["sgd"])
    trained = OptimizedRuns(engine, [lambda parameter: torch.optim.Adam([parameter])] * 2)
    before = engine.parameters.clone()
    trained.advance(4, np.array([True, False]))
    assert not torch.equal(engine.parameters[0], before[0])
    assert torch.equal(engine.parameters[1], before[1])
    # What took the time is said of whom it took.
    assert trained.update_seconds[0] > 0 == trained.update_seconds[1]


def test_optimizers_side_by_side_make_the_runs_that_each_makes_alone(moons):
    optimizers = {name: shipped(name) for name in METHODS}
    runs = train_side_by_side(optimizers, moons, [4, 9], CONFIG)
    assert [(run.controller, run.seed) for run in runs] == [
        (name, seed) for name in METHODS for seed in (4, 9)
    ]
    for name, method in optimizers.items():
        own = [run for run in runs if run.controller == name]
        for run, expected in zip(own, method.train(name, moons, [4, 9], CONFIG), strict=True):
            assert run.outer_valid_loss == pytest.approx(expected.outer_valid_loss, rel=1e-5)
            assert run.best_test_loss == pytest.approx(expected.best_test_loss, rel=1e-5)
            assert run.decisions[-1]["optimizer"] == expected.decisions[-1]["optimizer"]
            assert run.seconds > 0


def test_a_job_holds_all_adaptive_optimizers_of_a_task_and_runs_as_each_alone(moons):
    contenders = [
        Contender("adam", "heuristic", "", Constant("adam", 0.01)),
        *(Contender(name, "adaptive", "", shipped(name)) for name in METHODS),
        Contender("oracle", "oracle", "", shipped("oracle")),
    ]
    jobs = make_jobs(moons, contenders, [4], CONFIG, row_cost=2.0)
    assert [[each.name for each in job.contenders] for job in jobs] == [
        ["adam"],
        [*METHODS],
        ["oracle"],
    ]
    assert jobs[1].work == 2.0 * len(METHODS) * CONFIG.decisions
    told = []
    ((job, runs),) = run_jobs(jobs[1:2], CONFIG, 0, told.append)
    assert job is jobs[1]
    assert [run.controller for run in runs] == [*METHODS]
    assert sum(told) == pytest.approx(job.work)


def test_numbers_that_are_not_finite_are_a_divergence(quadratic):
    method = AdaptiveOptimizer("torch.optim.SGD", {"lr": 1e38})
    config = EnvConfig(decisions=1, micro_batches_per_decision=1)
    (run,) = method.train("wild", quadratic, [0], config)
    assert run.diverged
    assert run.decisions[0]["intervention"].endswith("not finite")


def test_hypergradient_descent_by_hand():
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = AdamHD([parameter], lr=0.1, betas=(0.5, 0.75), eps=0.0, hypergradient_lr=0.01)
    parameter.grad = torch.tensor([2.0, -1.0], dtype=torch.float64)
    optimizer.step()
    # The first direction is the sign of the gradient, and the rate is still the first one.
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert parameter.tolist() == pytest.approx([0.9, -1.9])
    parameter.grad = torch.tensor([1.0, 3.0], dtype=torch.float64)
    optimizer.step()
    rate = 0.1 + 0.01 * (1 * 1 + 3 * -1)
    # Means 1.5 * 2 / 4 + 1 / 2 and so on, each over one minus its decay to the second power.
    means = [(0.25 * 2 + 0.5 * 1) / 0.75, (0.25 * -1 + 0.5 * 3) / 0.75]
    squares = [(0.75 * 0.25 * 4 + 0.25 * 1) / 0.4375, (0.75 * 0.25 * 1 + 0.25 * 9) / 0.4375]
    moved = [mean / math.sqrt(square) for mean, square in zip(means, squares, strict=True)]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert parameter.tolist() == pytest.approx([0.9 - rate * moved[0], -1.9 - rate * moved[1]])


def test_without_a_rate_of_the_rate_it_is_adam(moons):
    model, _ = plain_loop(moons, lambda given: AdamHD(given, lr=0.01, hypergradient_lr=0), 4, 20)
    adam, _ = plain_loop(moons, lambda given: torch.optim.Adam(given, lr=0.01), 4, 20)
    for name, value in adam.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_the_derivative_by_the_rate_is_that_of_autograd():
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    start = torch.tensor([3.0, -2.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 5.0], dtype=torch.float64)
    # Adam's first step on the loss (scale * x ** 2).sum() / 2 is the sign of the gradient.
    after = start - rate * torch.sign(scale * start)
    (derivative,) = torch.autograd.grad((scale * after**2).sum() / 2, rate)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = AdamHD([parameter], lr=0.1, eps=0.0, hypergradient_lr=1e-3)
    for _ in range(2):
        parameter.grad = scale * parameter.detach()
        optimizer.step()
    moved = optimizer.param_groups[0]["lr"] - 0.1
    assert moved == pytest.approx(-1e-3 * derivative.item())


@pytest.mark.parametrize(
    ("optimizer", "arguments", "message"),
    [
        ("no_such_package.Optimizer", {}, "'pip install no-such-package' installs"),
        ("Adam", {}, "named with its module"),
        ("torch.optim.Adem", {}, r"torch.optim.Adem must be a torch.optim.Optimizer"),
        ("torch.nn.Linear", {}, r"torch.nn.Linear must be a torch.optim.Optimizer"),
        ("torch.optim.Adam", {"rate": 1}, "arguments must be such as torch.optim.Adam takes"),
        ("torch.optim.Adam", {"lr": -1}, r"given: {'lr': -1} \(Invalid learning rate"),
    ],
)
def test_mistakes_are_told_in_a_sentence(optimizer, arguments, message):
    with pytest.raises(TrainpilotError, match=message):
        AdaptiveOptimizer(optimizer, arguments)
