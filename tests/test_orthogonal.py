"""The directions of matrices."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from trainpilot.envs.orthogonal import Kind, orthogonalised, parameter_kinds


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(rows=st.integers(2, 40), columns=st.integers(2, 40), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_singular_vectors_stay_and_the_values_follow_the_polynomial(rows, columns, scale):
    values = some(rows, columns, seed=rows * columns)
    left, size, right = torch.linalg.svd(values, full_matrices=False)
    size = size / size.norm()
    for _ in range(5):
        size = 3.4445 * size - 4.775 * size**3 + 2.0315 * size**5
    expected = 0.2 * max(rows, columns) ** 0.5 * left @ size.diag() @ right
    torch.testing.assert_close(orthogonalised(scale * values), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_equals_the_direction_of_torch_optim_muon(shape):
    """The first step without Nesterov's look ahead; torch computes it in bfloat16."""
    values = some(*shape).float()
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = values.clone()
    torch.optim.Muon(
        [parameter], lr=1.0, weight_decay=0.0, nesterov=False, adjust_lr_fn="match_rms_adamw"
    ).step()
    torch.testing.assert_close(orthogonalised(values), -parameter.detach(), rtol=0.1, atol=0.02)


def test_each_matrix_of_a_batch_is_by_itself():
    values = some(3, 5, 4)
    together = orthogonalised(values * torch.tensor([1.0, 1e4, 1e-4]).view(3, 1, 1))
    for own, whole in zip(values, together, strict=True):
        torch.testing.assert_close(whole, orthogonalised(own))


def test_zeros_stay_zeros_and_what_diverges_shows():
    assert not orthogonalised(torch.zeros(3, 4)).any()
    broken = torch.ones(3, 4)
    broken[1, 2] = float("nan")
    assert orthogonalised(broken).isnan().all()


def test_half_precision_is_computed_in_single_and_given_back():
    values = some(8, 8).bfloat16()
    found = orthogonalised(values)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, orthogonalised(values.float()).bfloat16())


class Everything(nn.Module):
    """A parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.bag = nn.EmbeddingBag(10, 6)
        self.convolution = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.layer = nn.Linear(6, 5)
        self.single = nn.Linear(6, 1)
        self.tied = nn.Linear(6, 10, bias=False)
        self.tied.weight = self.embedding.weight
        self.turns = nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))
        self.scale = nn.Parameter(torch.zeros(()))


def test_matrices_are_weights_of_more_axes_than_one_but_no_embeddings():
    model = Everything()
    names = [name for name, _ in model.named_parameters()]
    found = dict(zip(names, parameter_kinds(model), strict=True))
    assert [name for name, kind in found.items() if kind is Kind.MATRIX] == [
        "convolution.weight",
        "layer.weight",
    ]
    assert [name for name, kind in found.items() if kind is Kind.TABLE] == [
        "embedding.weight",
        "bag.weight",
    ]
