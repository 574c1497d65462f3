"""Forms of common layers that `torch.func.vmap` can map over runs.

A layer is replaced by one of the same parameter names and the same values. Dropout draws from
the run's own key, so that a run's numbers do not depend on the runs beside it; recurrent layers,
whose fused kernels know nothing of runs, become a loop over time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

#: Name of the buffer that holds a run's key, in every layer that draws.
KEY = "trainpilot_key"

_MASK = 0xFFFFFFFF


def uniform_bits(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Independent uniform integers below 2 ** 32, the same wherever they are computed.

    A hash of key and place (two rounds of Wellons' lowbias32), since a generator's stream
    would depend on how many runs draw from it.

    Args:
        key: int64 scalar; every step of every run has its own.
        shape: of the result.

    Returns:
        int64.
    """
    n_numbers = 1
    for size in shape:
        n_numbers *= size
    bits = torch.arange(n_numbers, device=key.device) + (key & _MASK)
    for half in (key >> 32, key):
        bits = (bits ^ half) & _MASK
        bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & _MASK
        bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & _MASK
        bits = bits ^ (bits >> 16)
    return bits.view(shape)


def salt_of(place: int, n_calls: int) -> int:
    """What is added to a step's key, so that each layer and each of its calls draws anew.

    Args:
        place: number of the layer among its model's modules.
        n_calls: of the layer before, in the same forward pass.
    """
    salt = (place << 20) + n_calls
    return (salt * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63


class KeyedDropout(nn.Module):
    """Dropout whose mask is a function of a key.

    Args:
        p: probability of a zero, in [0, 1].
        channels: zero whole channels of `(batch, channels, ...)`, as `nn.Dropout2d` does.
        place: number of this layer in its model, so that no two have the same mask.
    """

    def __init__(self, p: float, *, channels: bool, place: int) -> None:
        super().__init__()
        self.p = p
        self.channels = channels
        self.place = place
        self.n_calls = 0
        self.register_buffer(KEY, torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Zeroes some and scales the rest by `1 / (1 - p)`; in evaluation mode, the inputs."""
        if not self.training or self.p == 0:
            return inputs
        if self.p == 1:
            return torch.zeros_like(inputs)
        shape = tuple(inputs.shape)
        if self.channels:
            shape = shape[:2] + (1,) * (inputs.ndim - 2)
        key = self.get_buffer(KEY) + salt_of(self.place, self.n_calls)
        self.n_calls += 1
        kept = uniform_bits(key, shape) >= int(self.p * 2**32)
        return torch.where(kept, inputs / (1 - self.p), 0)


class UnrolledRNN(nn.Module):
    """`nn.RNN`, `nn.LSTM` or `nn.GRU`, one direction, as a loop over layers and time.

    Args:
        layer: the layer; its parameters become this one's, under the same names.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.mode = layer.mode
        self.input_size = layer.input_size
        self.num_layers = layer.num_layers
        self.bidirectional = False
        self.batch_first = layer.batch_first
        self.hidden_size = layer.hidden_size
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def forward(
        self, inputs: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """As the layer that it replaces: outputs, and the last state of every layer.

        Args:
            inputs: `(time, batch, n_inputs)`, or `(batch, time, n_inputs)` if `batch_first`;
                without `batch` too.
            state: `(n_layers, batch, hidden_size)`, for an LSTM two of them (default: zeros).
        """
        batched = inputs.ndim == 3
        steps = inputs.transpose(0, 1) if self.batch_first and batched else inputs
        given = state if isinstance(state, tuple) else (state,)
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            zeros = steps.new_zeros((*steps.shape[1:-1], self.hidden_size))
            own = tuple(zeros if part is None else part[layer] for part in given)
            if self.mode == "LSTM" and len(own) == 1:
                own = (zeros, zeros)
            steps, own = self._run(layer, steps, own)
            last.append(own)
        outputs = steps.transpose(0, 1) if self.batch_first and batched else steps
        parts = tuple(torch.stack(part) for part in zip(*last, strict=True))
        return outputs, (parts[0], parts[1]) if self.mode == "LSTM" else parts[0]

    def flatten_parameters(self) -> None:
        """Nothing: the parameters already are one tensor."""

    def _run(
        self, layer: int, steps: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        # One product for all times: only the recurrent one has to wait for the step before.
        projected = _affine(self, f"ih_l{layer}", steps)
        outputs = []
        for inputs in projected.unbind(0):
            recurrent = _affine(self, f"hh_l{layer}", state[0])
            state = _CELLS[self.mode](inputs, recurrent, state)
            outputs.append(state[0])
        return torch.stack(outputs), state


def _affine(module: nn.Module, which: str, inputs: Tensor) -> Tensor:
    bias = getattr(module, f"bias_{which}", None)
    return nn.functional.linear(inputs, getattr(module, f"weight_{which}"), bias)


def _lstm_cell(
    inputs: Tensor, recurrent: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    in_gate, forget, candidate, out_gate = (inputs + recurrent).chunk(4, -1)
    cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(in_gate) * torch.tanh(candidate)
    return torch.sigmoid(out_gate) * torch.tanh(cell), cell


def _gru_cell(inputs: Tensor, recurrent: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor]:
    reset_in, update_in, new_in = inputs.chunk(3, -1)
    reset_back, update_back, new_back = recurrent.chunk(3, -1)
    new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_back) * new_back)
    update = torch.sigmoid(update_in + update_back)
    return (new + update * (state[0] - new),)


#: Formulas: documentation of `torch.nn.RNN`, `torch.nn.LSTM` and `torch.nn.GRU`.
_CELLS: dict[str, Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]] = {
    "RNN_TANH": lambda inputs, recurrent, state: (torch.tanh(inputs + recurrent),),
    "RNN_RELU": lambda inputs, recurrent, state: (torch.relu(inputs + recurrent),),
    "LSTM": _lstm_cell,
    "GRU": _gru_cell,
}


def make_mappable(model: nn.Module) -> nn.Module:
    """The model with every layer that has a mappable form in that form; changes it in place."""
    made: dict[int, nn.Module | None] = {}
    # With duplicates, so that a layer that stands at two places is replaced at both, by one.
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if id(layer) not in made:
            made[id(layer)] = _replacement(layer, len(made))
        replacement = made[id(layer)]
        if replacement is not None:
            replacement.train(layer.training)
            if not name:
                return replacement
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, replacement)
    return model


def _replacement(layer: nn.Module, place: int) -> nn.Module | None:
    if type(layer) is nn.Dropout:
        return KeyedDropout(layer.p, channels=False, place=place)
    if type(layer) in (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d) and isinstance(layer, _DropoutNd):
        return KeyedDropout(layer.p, channels=True, place=place)
    if type(layer) in (nn.RNN, nn.LSTM, nn.GRU) and isinstance(layer, nn.RNNBase):
        covered = not layer.bidirectional and not layer.dropout and not layer.proj_size
        return UnrolledRNN(layer) if covered else None
    return None
