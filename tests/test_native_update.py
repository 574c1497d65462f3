"""The fast updates, in the single precision that they run in, against torch.optim in double."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from update_oracles import ORACLES, RATES

from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.formula_update import FormulaUpdate
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.native_update import native_update
from trainpilot.envs.optimizers import OPTIMIZER_NAMES, OPTIMIZERS, moment_names
from trainpilot.envs.schedule import Schedule
from trainpilot.envs.trainer import RunState
from trainpilot.inner_tasks import TensorTask

N_UPDATES = 200
EVERY = range(len(OPTIMIZER_NAMES))


def some_gradients(n_updates: int, batch_size: int, n_params: int) -> Tensor:
    """Noise around numbers of either sign, `(n_updates, batch_size, n_params)`."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n_updates, batch_size, n_params, generator=generator)
    return 0.1 * noise + torch.linspace(-0.3, 0.3, n_params)


class TwoRuns:
    """Two runs that take the same gradients, the second with another optimizer."""

    def __init__(self, model: FlatModel, settings: Hyperparameters, n_steps: int) -> None:
        self.start = torch.randn(model.n_params, generator=torch.Generator().manual_seed(1))
        parameters = torch.zeros(2, model.width)
        parameters[:, : model.n_params] = self.start
        moments = [torch.zeros(2, model.width) for _ in moment_names(EVERY)]
        self.state = RunState(parameters, moments, torch.zeros(2, model.width), {})
        settings.optimizer[1] = (settings.optimizer[0] + 1) % len(OPTIMIZER_NAMES)
        self._model = model
        self._scalars = torch.from_numpy(Schedule(2).plan(settings, n_steps).scalars).float()

    def given(self, step: int, gradient: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """What an update of this step takes."""
        pieces = [part.repeat(2, 1) for part in gradient.split(self._model.sizes)]
        return pieces, self._scalars[:, step].contiguous()

    @property
    def parameters(self) -> Tensor:
        return self.state.parameters[:, : self._model.n_params]


class Tied(nn.Module):
    """A table that is a matrix too, beside a number by itself, an empty vector and a single row."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.scale = nn.Parameter(torch.ones(()))
        self.nothing = nn.Parameter(torch.zeros(0))
        self.row = nn.Linear(4, 1, bias=False)
        self.layer = nn.Linear(4, 5)
        self.layer.weight = self.table.weight


MODELS = {
    "tables alone": lambda: nn.Embedding(7, 3),
    "vectors alone": lambda: nn.LayerNorm(5),
    "a matrix alone": lambda: nn.Linear(6, 4, bias=False),
    "a table between": lambda: nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4), nn.Linear(4, 3)),
    "tied": Tied,
}


def flat(make_model) -> FlatModel:
    """Of a model that is never called."""
    nothing = torch.zeros(40, 1)
    return FlatModel(
        TensorTask("flat", model=make_model, inputs=nothing, targets=nothing, micro_batch_size=1)
    )


@pytest.mark.parametrize("name", MODELS)
def test_matrices_tables_and_vectors_are_to_both_updates_the_same(name):
    model = flat(MODELS[name])
    gradients = some_gradients(20, 2, model.n_params).flatten(0, 1)
    settings = Hyperparameters.full(
        2, optimizer="muon", learning_rate=0.01, weight_decay=0.1, gradient_clip=2.0, batch_size=2
    )
    results = []
    for update in (FormulaUpdate(model, EVERY), native_update(EVERY, model, torch.device("cpu"))):
        runs = TwoRuns(model, settings, len(gradients))
        move = update.on(runs.state)
        sums = [move(*runs.given(step, each)) for step, each in enumerate(gradients)]
        results.append([runs.parameters, *runs.state.moments, torch.stack(sums)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    assert not runs.parameters[0].equal(runs.start)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_vectors_move_by_their_share_of_the_rate_and_tables_by_all_of_it(
    scale, native, monkeypatch
):
    """Adam's first step is as long as its rate."""
    monkeypatch.setitem(OPTIMIZERS, "muon", OPTIMIZERS["muon"]._replace(vector_scale=scale))
    model = flat(lambda: nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4)))
    runs = TwoRuns(model, Hyperparameters.full(2, optimizer="muon", learning_rate=0.01), 1)
    by_formula, cpu = FormulaUpdate(model, EVERY), torch.device("cpu")
    update = native_update(EVERY, model, cpu) if native else by_formula
    update.on(runs.state)(*runs.given(0, torch.ones(model.n_params)))
    moved = (runs.start - runs.parameters[0]).split(model.sizes)
    for part, expected in zip(moved, (0.01, 0.01 * scale, 0.01 * scale), strict=True):
        torch.testing.assert_close(part, torch.full_like(part, expected), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("clip", "decay"), [(math.inf, 0.0), (2.0, 0.1)])
@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_two_hundred_updates_equal_torch_optim(name, clip, decay, batch_size, moons):
    """Both take the same gradients: a training would go apart by rounding alone."""
    model, rate = FlatModel(moons), RATES[name]
    gradients = some_gradients(N_UPDATES, batch_size, model.n_params)
    settings = Hyperparameters.full(
        2, optimizer=name, learning_rate=rate, weight_decay=decay, momentum=0.8,
        gradient_clip=clip, batch_size=batch_size,
    )  # fmt: skip
    runs = TwoRuns(model, settings, N_UPDATES * batch_size)
    move = native_update(EVERY, model, torch.device("cpu")).on(runs.state)
    for step, gradient in enumerate(gradients.flatten(0, 1)):
        move(*runs.given(step, gradient))

    expected = [nn.Parameter(part[0]) for part in model.parts(runs.start.double()[None])]
    optimizer = ORACLES[name](expected, rate)
    for batch in gradients.double():
        for parameter, part in zip(expected, model.parts(batch.mean(0)[None]), strict=True):
            parameter.grad = part[0].clone()
        nn.utils.clip_grad_norm_(expected, clip)
        with torch.no_grad():
            for parameter in expected:
                parameter.mul_(1 - rate * decay)
        optimizer.step()
    values = torch.cat([parameter.detach().flatten() for parameter in expected])
    error = torch.linalg.vector_norm(runs.parameters[0].double() - values)
    assert error / torch.linalg.vector_norm(values) < 1e-5
    assert not runs.parameters[0].equal(runs.parameters[1])


def test_the_compiled_formulas_give_what_the_eager_ones_do(moons):
    """They are what other devices than the CPU have; here for their numbers alone."""
    model = FlatModel(moons)
    gradients = some_gradients(20, 2, model.n_params).flatten(0, 1)
    settings = Hyperparameters.full(
        2, optimizer="nesterov", learning_rate=0.01, weight_decay=0.1, gradient_clip=2.0,
        batch_size=2,
    )  # fmt: skip
    results = []
    for compiled in (False, True):
        update, runs = FormulaUpdate(model, EVERY), TwoRuns(model, settings, len(gradients))
        if compiled:
            update.compile(runs.state, *runs.given(0, gradients[0]), tolerance=1e-5)
        move = update.on(runs.state)
        sums = [move(*runs.given(step, each)) for step, each in enumerate(gradients)]
        results.append([runs.parameters, *runs.state.moments, torch.stack(sums)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    assert not runs.parameters[0].equal(runs.start)
