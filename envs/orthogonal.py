"""Matrices brought near the closest matrix with orthonormal rows or columns: Muon's direction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: Of the odd polynomial `a x + b x^3 + c x^5`, applied to all singular values at once; their choice
#: is Muon's (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
#: Of an entry of the direction, about that of Adam's (arXiv 2502.16982, section 2.2).
ROOT_MEAN_SQUARE = 0.2
SMALLEST_NORM = 1e-7


class Kind(Enum):
    """What a parameter is to Muon.

    A matrix is moved as a whole. A table, the weight of an embedding, has rows that are each by
    itself and rarely touched. All else is a vector: biases, gains, what has one row or one column,
    such as `(1, length, width)`, and numbers that are not real.
    """

    MATRIX = "matrix"
    TABLE = "table"
    VECTOR = "vector"


class Part(NamedTuple):
    """Where a matrix or a vector stands among the parameters of a run.

    Attributes:
        offset: of its first number.
        rows: 1 for a vector, at least 2 for a matrix.
        columns: all axes but the first of a matrix that has more than two.
    """

    offset: int
    rows: int
    columns: int


def parameter_kinds(model: nn.Module, parameters: Iterable[Tensor] | None = None) -> list[Kind]:
    """What each of the parameters is.

    Args:
        model: says what is an embedding.
        parameters: of which to say it (default: the model's).
    """
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        # Not its weight, which may be worked out anew whenever it is asked for.
        for parameter in module.parameters()
    }
    return [
        Kind.TABLE
        if id(parameter) in tables
        else Kind.MATRIX
        if parameter.is_floating_point() and min(_as_matrix(parameter.shape)) > 1
        else Kind.VECTOR
        for parameter in (model.parameters() if parameters is None else parameters)
    ]


def _as_matrix(shape: torch.Size) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, 1)


def orthogonalised(values: Tensor) -> Tensor:
    """The direction that Muon takes for a momentum.

    Newton and Schulz's iteration: all singular values come between 0.7 and 1.2 or so, unless they
    were hundreds of times smaller than the largest, and the singular vectors stay. The result is
    scaled so that the root mean square of its entries does not depend on the shape, which is
    `match_rms_adamw` of `torch.optim.Muon`. That computes in bfloat16, this in the dtype that is
    given, or in float32 where that has fewer bits.

    Args:
        values: `(..., rows, columns)`.

    Returns:
        Of the same shape; zeros for zeros.
    """
    rows, columns = values.shape[-2:]
    x = values.float() if values.dtype.itemsize < 4 else values
    x = x.reshape(-1, rows, columns)
    if rows > columns:
        x = x.mT
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    x = x / norm.clamp(min=SMALLEST_NORM)
    a, b, c = POLYNOMIAL
    for _ in range(N_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x * (ROOT_MEAN_SQUARE * math.sqrt(max(rows, columns)))
    return (x.mT if rows > columns else x).reshape(values.shape).to(values.dtype)
