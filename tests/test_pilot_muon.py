"""Which parameters a pilot under Muon takes for matrices, and when."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainpilot import Pilot
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.pilot.muon import Muon
from trainpilot.agents.policy import PolicyController, make_policy
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int = 3) -> None:
    """Some steps on noise."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(n):
        inputs = torch.randn(8, 3, generator=generator)
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)


def kept(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> set[str]:
    """Names of what is kept of a parameter."""
    return {*optimizer.state[parameter]}


MATRIX, OTHER = {"kind", "exp_avg"}, {"kind", "step", "exp_avg", "exp_avg_sq"}


def test_lazy_modules_have_their_shapes_by_the_first_step():
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2))
    optimizer = Pilot.load().attach(model, 30)
    take_steps(model, optimizer)
    assert kept(optimizer, model[1].weight) == MATRIX
    assert kept(optimizer, model[1].bias) == OTHER


def test_matrices_beside_the_model_are_matrices_too():
    body, head = nn.Linear(3, 4), nn.Linear(4, 4)
    params = [*body.parameters(), *head.parameters()]
    optimizer = Pilot(Constant("muon", 1e-3)).attach(body, 30, params=params, optimizer="muon")
    take_steps(nn.Sequential(body, head), optimizer)
    assert kept(optimizer, head.weight) == MATRIX


def test_what_is_unfrozen_later_is_a_matrix_as_well():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    optimizer = Pilot(Constant("muon", 1e-3)).attach(
        model, 30, params=model.parameters(), optimizer="muon"
    )
    take_steps(model, optimizer)
    model[0].requires_grad_(True)
    take_steps(model, optimizer)
    assert kept(optimizer, model[0].weight) == MATRIX


def test_what_a_parameter_was_moved_as_it_stays():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    optimizer = Muon(model.parameters(), model)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    embedding = nn.Embedding(4, 4)
    embedding.weight = model[1].weight
    model.add_module("tied", embedding)
    optimizer.step()
    assert kept(optimizer, model[1].weight) == MATRIX


def test_a_parametrized_embedding_is_an_embedding():
    embedding = nn.Embedding(5, 4)
    nn.utils.parametrizations.orthogonal(embedding)
    optimizer = Muon(embedding.parameters(), embedding)
    embedding(torch.tensor([1, 2])).square().sum().backward()
    optimizer.step()
    (own,) = embedding.parameters()
    assert kept(optimizer, own) == OTHER


def test_tables_move_by_the_rate_and_vectors_by_a_third_of_it():
    """Adam's first step is as long as its rate, whatever the gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = Muon(model.parameters(), model, lr=0.3)
    model(torch.arange(5)).pow(3).sum().backward()
    optimizer.step()
    table, _, bias = (
        (parameter - old).abs().max().item()
        for parameter, old in zip(model.parameters(), before, strict=True)
    )
    assert table == pytest.approx(0.3, rel=1e-3)
    assert bias == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("choices", [["adamw"], ["adamw", "adam"]])
def test_an_alias_is_the_optimizer_that_it_stands_for(choices):
    spec = ActionSpec(ActionConfig(optimizers=choices))
    model = nn.Linear(3, 4)
    optimizer = Pilot(PolicyController(make_policy(spec, [8]), spec)).attach(
        model, 30, optimizer="sgd"
    )
    take_steps(model, optimizer)
    assert {*optimizer.state_dict()["state"]} == {"adam", "mean"}
