"""The engine against closed forms and against torch.optim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from trainpilot.envs.data_order import data_order
from trainpilot.envs.engine import Engine
from trainpilot.envs.evaluating import observed_sample
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.inner_tasks import Split, Splits, TensorTask, TrainpilotError


def test_sgd_on_a_quadratic_follows_the_closed_form(quadratic):
    rates = np.array([0.1, 0.5, 1.0, 1.9])
    engine = Engine(quadratic, 4, n_micro_batches=20)
    engine.reset(range(4), range(4))
    sgd = replace(Hyperparameters.full(4, optimizer="sgd", momentum=0), learning_rate=rates)
    signals = engine.advance(sgd, 20)
    start = np.array([3.0, -2.0])
    for row, rate in enumerate(rates):
        position = engine.state_dict(row)["position"].numpy()
        np.testing.assert_allclose(position, (1 - rate) ** 20 * start, rtol=1e-4, atol=1e-6)
        shrink = np.abs(1 - rate) ** np.arange(20)
        norm = np.linalg.norm(start) * shrink
        np.testing.assert_allclose(signals.parameter_norm[row], norm, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(signals.gradient_norm[row], norm, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(signals.update_norm[row], rate * norm, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(signals.train_loss[row], norm**2 / 2, rtol=1e-4, atol=1e-6)
    # The gradient points away from the optimum, the update against it.
    np.testing.assert_allclose(signals.gradient_parameter_cosine[0], 1, rtol=1e-5)
    np.testing.assert_allclose(signals.gradient_update_cosine[0], -1, rtol=1e-5)


def test_decoupled_weight_decay_on_a_quadratic(quadratic):
    engine = Engine(quadratic, 1, n_micro_batches=10)
    engine.reset([0], [0])
    engine.advance(
        Hyperparameters.full(1, optimizer="sgd", learning_rate=0.1, weight_decay=0.5, momentum=0),
        10,
    )
    expected = (1 - 0.1 * 1.5) ** 10 * torch.tensor([3.0, -2.0])
    torch.testing.assert_close(engine.state_dict(0)["position"], expected)


@pytest.mark.parametrize("name", ["moons", "uncommon_moons"])
def test_gradients_are_those_of_autograd_and_the_weights_can_be_moved(name, request):
    task = request.getfixturevalue(name)
    # More runs than a tile holds: the last rows are followed by padding.
    engine = Engine(task, 17, n_micro_batches=2, optimizers=["adam", "sgd"])
    engine.reset(range(17), range(17))
    orders = [data_order(seed, 60, 2, 10) for seed in range(17)]
    for step in range(2):
        before = engine.parameters.clone()
        gradients, signals = engine.gradients()
        assert gradients.shape == before.shape == (17, 32)
        assert torch.equal(engine.parameters, before)
        for row in range(17):
            model = task.make_model()
            model.load_state_dict(engine.state_dict(row))
            inputs, targets = (part[orders[row][step]] for part in task.splits.train)
            loss = task.loss(model(inputs), targets)
            loss.backward()
            expected = torch.cat([value.grad.flatten() for value in model.parameters()])
            torch.testing.assert_close(gradients[row], expected, rtol=1e-4, atol=1e-6)
            assert signals.train_loss[row, 0] == pytest.approx(loss.item(), rel=1e-5)
        engine.parameters.sub_(gradients)
    assert engine.position.tolist() == [2] * 17
    with pytest.raises(TrainpilotError):
        engine.gradients()


def test_gradients_are_given_only_where_sgd_is_at_hand(moons):
    engine = Engine(moons, 1, n_micro_batches=1, optimizers=["adam"])
    with pytest.raises(TrainpilotError, match="the runs may use the optimizers adam; given: sgd"):
        engine.gradients()


def test_moments_stay_warm_for_the_optimizers_not_in_use(moons):
    engine = Engine(moons, 1, n_micro_batches=40)
    engine.reset([0], [0])
    engine.advance(Hyperparameters.full(1, optimizer="sgd", learning_rate=0.01), 20)
    before = engine.state_dict(0)
    signals = engine.advance(Hyperparameters.full(1, optimizer="adam"), 1)
    # A cold Adam's first update moves every parameter by the learning rate, whatever its size.
    n_params = sum(value.numel() for value in before.values())
    assert signals.update_norm[0, 0] < 0.9e-3 * n_params**0.5


def test_same_seed_same_run_to_the_last_bit(moons):
    curves = []
    for _ in range(2):
        engine = Engine(moons, 3, n_micro_batches=30)
        engine.reset(range(3), [7, 8, 7])
        curves.append(engine.advance(Hyperparameters.full(3), 30).train_loss)
    np.testing.assert_array_equal(curves[0], curves[1])
    np.testing.assert_array_equal(curves[0][0], curves[0][2])
    assert (curves[0][0] != curves[0][1]).any()


@pytest.mark.parametrize("n_runs", [9, 256])
@pytest.mark.parametrize("name", ["moons", "uncommon_moons"])
def test_a_row_does_not_depend_on_its_neighbours(name, n_runs, request):
    task = request.getfixturevalue(name)
    alone = Engine(task, 1, n_micro_batches=30)
    alone.reset([0], [7])
    curve = alone.advance(Hyperparameters.full(1), 30).train_loss[0]
    many = Engine(task, n_runs, n_micro_batches=30)
    many.reset(range(n_runs), range(n_runs))
    rates = np.full(n_runs, 1e-3)
    rates[0] = np.inf  # a neighbour that is not finite from its first step
    settings = replace(Hyperparameters.full(n_runs), learning_rate=rates)
    np.testing.assert_allclose(many.advance(settings, 30).train_loss[7], curve, rtol=1e-5)


def test_a_reset_row_starts_as_if_new_and_others_go_on(moons):
    engine = Engine(moons, 2, n_micro_batches=20)
    engine.reset([0, 1], [5, 6])
    first = engine.advance(Hyperparameters.full(2), 10)
    engine.reset([0], [5])
    assert engine.position.tolist() == [0, 10]
    second = engine.advance(Hyperparameters.full(2), 10)
    np.testing.assert_allclose(second.train_loss[0], first.train_loss[0], rtol=1e-6)
    straight = Engine(moons, 2, n_micro_batches=20)
    straight.reset([0, 1], [5, 6])
    whole = straight.advance(Hyperparameters.full(2), 20)
    np.testing.assert_allclose(second.train_loss[1], whole.train_loss[1, 10:], rtol=1e-6)


def test_the_budget_cannot_be_passed(moons):
    engine = Engine(moons, 1, n_micro_batches=5)
    engine.reset([0], [0])
    engine.advance(Hyperparameters.full(1), 4)
    with pytest.raises(TrainpilotError, match="1 to 1 more micro-batches; given: 2"):
        engine.advance(Hyperparameters.full(1), 2)


def test_an_epoch_shows_every_example_once(moons):
    engine = Engine(moons, 1, n_micro_batches=12)
    engine.reset([0], [0])
    n_train = len(moons.splits.train.inputs)
    per_epoch = n_train // 10
    shown = engine._order[0, :per_epoch].flatten().tolist()
    assert len(set(shown)) == len(shown) == per_epoch * 10


@pytest.mark.parametrize("name", ["moons", "uncommon_moons"])
def test_compiled_equals_eager(name, request):
    task, curves = request.getfixturevalue(name), []
    for compiled in (False, True):
        engine = Engine(task, 4, n_micro_batches=30, compiled=compiled)
        engine.reset(range(4), range(4))
        curves.append(engine.advance(Hyperparameters.full(4), 30).train_loss)
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


def test_nothing_is_compiled_in_mid_run(uncommon_moons, monkeypatch):
    engine = Engine(uncommon_moons, 3, n_micro_batches=20, max_batch_size=2, compiled=True)
    assert engine.report.startswith("inner steps are compiled by torch.compile")

    def refuse(*arguments, **keywords):
        raise AssertionError("compiled in mid-run")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_inner", refuse)
    monkeypatch.setattr("torch.compile", refuse)
    for _ in range(2):
        engine.reset(range(3), range(3))
        engine.advance(Hyperparameters.full(3), 10)
        engine.evaluate()
        engine.advance(
            Hyperparameters.full(3, optimizer="sgd", batch_size=2, gradient_clip=0.1), 10
        )


def test_when_compiling_fails_the_engine_says_so_and_stays_correct(uncommon_moons, monkeypatch):
    def fail(*arguments, **keywords):
        raise RuntimeError("no luck")

    monkeypatch.setattr("trainpilot.envs.compiling.compile_function", fail)
    with pytest.warns(UserWarning, match="torch.compile failed .no luck.: inner runs are not"):
        engine = Engine(uncommon_moons, 1, n_micro_batches=1, compiled=True)
    assert "no luck" in engine.report
    engine.reset([0], [0])
    assert np.isfinite(engine.advance(Hyperparameters.full(1), 1).train_loss).all()


def test_a_compiled_step_that_gives_other_numbers_is_not_used(uncommon_moons, monkeypatch):
    monkeypatch.setattr(
        "trainpilot.envs.compiling.compile_function",
        lambda function, examples: lambda *tensors: [1.1 * out for out in function(*tensors)],
    )
    with pytest.warns(UserWarning, match="gives other numbers than the step itself"):
        Engine(uncommon_moons, 1, n_micro_batches=1, compiled=True)


def test_observed_examples_are_a_random_sample_of_the_split(moons):
    valid = moons.splits.valid
    seen = observed_sample(valid, 5)
    assert len(seen.inputs) == 5
    assert not torch.equal(seen.inputs, valid.inputs[:5])
    for example, target in zip(*seen, strict=True):
        place = (valid.inputs == example).all(1).nonzero().item()
        assert valid.targets[place] == target


def test_tied_weights_come_back_as_the_model_takes_them():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("scale", torch.tensor(2.0), persistent=False)

        def forward(self, inputs):
            return self.b(self.a(inputs).tanh()) * self.scale

    inputs = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    task = TensorTask(
        "tied", model=Tied, inputs=inputs, targets=inputs.argmax(1), micro_batch_size=12
    )
    engine = Engine(task, 2, n_micro_batches=9)
    engine.reset([0, 1], [1, 2])
    engine.advance(Hyperparameters.full(2), 9)
    model = task.make_model()
    model.load_state_dict(engine.state_dict(1))
    with torch.no_grad():
        loss = task.loss(model(task.splits.test.inputs), task.splits.test.targets)
    assert engine.evaluate_split(task.splits.test).loss[1] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["moons", "uncommon_moons"])
def test_without_a_compiler_the_engine_says_so_and_stays_correct(name, request, monkeypatch):
    monkeypatch.setattr("trainpilot.envs.compiling.shutil.which", lambda _: None)
    monkeypatch.setattr("trainpilot.envs.native_update.load", lambda *_: None)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        engine = Engine(request.getfixturevalue(name), 1, n_micro_batches=1, compiled=True)
    engine.reset([0], [0])
    assert np.isfinite(engine.advance(Hyperparameters.full(1), 1).train_loss).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_norm_keeps_running_statistics_per_row(compiled):
    inputs = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 4 + 2
    task = TensorTask(
        "normed",
        model=lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)),
        inputs=inputs,
        targets=(inputs[:, 0] > 2).long(),
        micro_batch_size=20,
    )
    engine = Engine(task, 2, n_micro_batches=3, compiled=compiled)
    engine.reset([0, 1], [1, 2])
    engine.advance(Hyperparameters.full(2), 3)
    torch.manual_seed(1)
    model = task.make_model()
    for indices in engine._order[0]:
        model(task.splits.train.inputs[indices])
    torch.testing.assert_close(
        engine.state_dict(0)["0.running_mean"], model.state_dict()["0.running_mean"]
    )
    assert (engine.state_dict(0)["0.running_mean"] != engine.state_dict(1)["0.running_mean"]).any()


def test_dropout_is_seeded_and_leaves_the_global_generator_alone():
    task = TensorTask(
        "dropped",
        model=lambda: nn.Sequential(nn.Linear(3, 30), nn.Dropout(), nn.Linear(30, 2)),
        inputs=torch.randn(100, 3, generator=torch.Generator().manual_seed(0)),
        targets=torch.arange(100) % 2,
        micro_batch_size=20,
    )
    curves = []
    for global_seed in (0, 1):
        engine = Engine(task, 1, n_micro_batches=6)
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        engine.reset([0], [1])
        curves.append(engine.advance(Hyperparameters.full(1), 6).train_loss)
        assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(curves[0], curves[1])


def test_frozen_parameters_stay_and_are_in_the_state_dict():
    def model() -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        net[0].requires_grad_(False)
        return net

    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    task = TensorTask(
        "frozen", model=model, inputs=inputs, targets=torch.arange(50) % 2, micro_batch_size=10
    )
    engine = Engine(task, 1, n_micro_batches=5)
    engine.reset([0], [2])
    engine.advance(Hyperparameters.full(1), 5)
    torch.manual_seed(2)
    initial = task.make_model().state_dict()
    trained = engine.state_dict(0)
    assert torch.equal(trained["0.weight"], initial["0.weight"])
    assert not torch.equal(trained["1.weight"], initial["1.weight"])
    task.make_model().load_state_dict(trained)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.GRU(3, 2), "must fit together"),  # it gives a tuple
        (lambda: nn.Linear(5, 2), "must fit together"),
        (nn.Flatten, "must have a trainable parameter"),
        (lambda: nn.Linear(3, -2), "must fit together.* negative dimension"),
        (nn.Module, "must have a trainable parameter"),
    ],
)
def test_a_task_that_cannot_be_trained_is_refused_at_once(model, message):
    task = TensorTask(
        "odd", model=model, inputs=torch.randn(40, 3), targets=torch.zeros(40).long(),
        micro_batch_size=4,
    )  # fmt: skip
    with pytest.raises(TrainpilotError, match=message):
        Engine(task, 1, n_micro_batches=1)


@pytest.mark.parametrize("where", ["train", "valid", "outer_valid"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_loss_that_is_not_finite_at_the_start_is_refused(where, value):
    splits = {
        name: Split(torch.full((20, 3), value if name == where else 1.0), torch.zeros(20).long())
        for name in Splits._fields
    }
    task = TensorTask(
        "infinite", model=lambda: nn.Linear(3, 2), splits=Splits(**splits), micro_batch_size=4
    )
    with pytest.raises(TrainpilotError, match=r"loss of task 'infinite' must be finite .*given"):
        Engine(task, 1, n_micro_batches=1)


def test_a_loss_that_is_not_above_zero_at_the_start_is_refused(quadratic):
    quadratic._objective = quadratic._objective._replace(
        loss=lambda outputs, targets: -(outputs**2).mean()
    )
    with pytest.raises(TrainpilotError, match=r"finite and above 0 .*given: -6.5"):
        Engine(quadratic, 1, n_micro_batches=1)


def test_a_single_row_of_several_blocks_compiles():
    inputs = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    task = TensorTask(
        "wide", inputs=inputs,
        model=lambda: nn.Sequential(nn.Linear(40, 150), nn.Mish(), nn.Linear(150, 3)),
        targets=torch.arange(60) % 3, micro_batch_size=10,
    )  # fmt: skip
    curves = []
    for n_runs in (1, 2):
        engine = Engine(task, n_runs, n_micro_batches=5, compiled=True)
        assert engine.report.startswith("inner steps are compiled by torch.compile")
        engine.reset([0], [3])
        curves.append(engine.advance(Hyperparameters.full(n_runs), 5).train_loss[0])
    np.testing.assert_allclose(*curves, rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, None])
def test_some_rows_can_be_evaluated_anew(moons, compiled):
    engine = Engine(moons, 4, n_micro_batches=10, compiled=compiled)
    engine.reset(range(4), range(4))
    engine.advance(Hyperparameters.full(4, learning_rate=0.1), 10)
    before = engine.evaluate()
    engine.reset([2, 0], [9, 8])
    found, whole = engine.evaluate([2, 0]), engine.evaluate()
    for one, other, old in zip(found, whole, before, strict=True):
        np.testing.assert_array_equal(one.loss, other.loss)
        np.testing.assert_array_equal(one.metrics["accuracy"], other.metrics["accuracy"])
        np.testing.assert_array_equal(one.loss[[1, 3]], old.loss[[1, 3]])
        assert (one.loss[[0, 2]] != old.loss[[0, 2]]).all()


class Rescaled(nn.Linear):
    """Weights that are drawn once more after the layer's own."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        with torch.no_grad():
            self.weight.normal_(std=0.1)


class Demanding(nn.Linear):
    """Its `reset_parameters` is not torch's."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def reset_parameters(self, *scale: float) -> None:
        if not scale:
            scale = (self.called,) if hasattr(self, "called") else (1.0,)
        super().reset_parameters()
        self.called = "not a number"
        self.weight.data *= scale[0]


@pytest.mark.parametrize(
    "model",
    [
        Demanding,
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        Rescaled,
        lambda: nn.Sequential(nn.Embedding(3, 4), nn.LSTM(4, 2)),
    ],
)
def test_initial_weights_are_those_of_the_seed(model):
    task = TensorTask(
        "initial", model=model, inputs=torch.zeros(40, 3), targets=torch.zeros(40).long(),
        micro_batch_size=4,
    )  # fmt: skip
    flat_model = FlatModel(task)
    state = torch.get_rng_state()
    flat, buffers = flat_model.initial_states([7, 3, 7])
    assert torch.equal(torch.get_rng_state(), state)
    for row, seed in enumerate([7, 3, 7]):
        torch.manual_seed(seed)
        expected = model().state_dict()
        own = {name: value[row] for name, value in buffers.items()}
        found = flat_model.state_dict(flat[row], own)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["moons", "uncommon_moons"])
def test_numbers_too_small_are_zeros_and_the_mode_is_left_as_it_was(name, request):
    engine = Engine(request.getfixturevalue(name), 2, n_micro_batches=2000)
    engine.reset(range(2), range(2))
    # Clipped to less than a float holds in full.
    still = Hyperparameters.full(2, learning_rate=0.0, gradient_clip=1e-38)
    engine.advance(still, 2000)
    for moment in engine._state.moments:
        small = moment[(moment != 0) & (moment.abs() < 1.17e-38)]
        assert len(small) == 0
    assert (torch.tensor(4e-39) * 0.5).item() > 0
