"""Many copies of a model as one flat tensor of parameters."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainpilot.envs.fast_forms import fast_forms
from trainpilot.envs.initial_weights import InitialWeights
from trainpilot.envs.mappable import KEY, KeyedDropout, make_mappable
from trainpilot.envs.orthogonal import Kind, Part, parameter_kinds
from trainpilot.envs.trainer import Buffers
from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.protocol import InnerTask

#: Inductor sums more than this many numbers by a slower method (cascade summation).
_LARGEST_BLOCK = 4096
#: Parameters in one AVX-512 register.
_ALIGNMENT = 16


class FlatModel:
    """A model whose trainable parameters are given as a vector.

    The vector is a little longer than the parameters are: it falls into blocks of one size,
    each short enough to be summed quickly and a whole number of vector registers long.

    Args:
        task: its `make_model` gives the model; parameters that need no gradient stay as the
            model was made.
        mixed_precision: run the model in bfloat16 where `torch.autocast` holds that safe
            (default: False).

    Raises:
        TrainpilotError: if the model has no trainable parameter, or they differ in dtype.

    Attributes:
        n_params: number of trainable parameters.
        sizes: of the trainable parameters, one after the other.
        matrices_and_vectors: where those stand that optimizers may treat in a way of their own, in
            the order of their offsets; what is left are tables of embeddings.
        n_blocks: number of blocks.
        block_size: numbers in a block; `width = n_blocks * block_size >= n_params`.
        dtype: of the parameters.
        draws: whether training draws random numbers, by a key for each run.
    """

    def __init__(self, task: InnerTask, *, mixed_precision: bool = False) -> None:
        self._mixed_precision = mixed_precision
        self._initial_weights = InitialWeights(task)
        model = self._new_model(0).train()
        self._shapes = {
            name: parameter.shape
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        if not self._shapes:
            raise TrainpilotError(
                f"the model of task '{task.name}' must have a trainable parameter; given: none"
            )
        dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
        if len(dtypes) > 1:
            raise TrainpilotError(
                f"the trainable parameters of task '{task.name}' must have one dtype; given: "
                f"{', '.join(sorted(map(str, dtypes)))}"
            )
        self.dtype = dtypes.pop()
        self.sizes = [math.prod(shape) for shape in self._shapes.values()]
        self.n_params = sum(self.sizes)
        self.matrices_and_vectors = self._matrices_and_vectors(model)
        self.n_blocks = -(-self.n_params // _LARGEST_BLOCK)
        self.block_size = _ALIGNMENT * -(-self.n_params // (self.n_blocks * _ALIGNMENT))
        self.width = self.n_blocks * self.block_size
        self._train_model = fast_forms(make_mappable(model))
        self._eval_model = copy.deepcopy(self._train_model).eval()
        self._keys = [
            name for name, _ in self._train_model.named_buffers() if name.rpartition(".")[2] == KEY
        ]
        self.draws = bool(self._keys)

    def _matrices_and_vectors(self, model: nn.Module) -> list[Part]:
        kinds = parameter_kinds(model, [model.get_parameter(name) for name in self._shapes])
        found, offset = [], 0
        for kind, shape, size in zip(kinds, self._shapes.values(), self.sizes, strict=True):
            if kind is not Kind.TABLE:
                rows = shape[0] if kind is Kind.MATRIX else 1
                found.append(Part(offset, rows, size // rows))
            offset += size
        return found

    def initial_states(self, seeds: Sequence[int]) -> tuple[Tensor, Buffers]:
        """Initial weights of each seed, and all that the runs do not train.

        The weights are those of `torch.manual_seed(seed); task.make_model()`; the global
        generator is left untouched.

        Returns:
            `(n_seeds, width)`, and buffers of `(n_seeds, ...)` each.
        """
        flat = torch.zeros(len(seeds), self.width, dtype=self.dtype)
        others: list[Buffers] = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for row, seed in enumerate(seeds):
                model = self._initial_weights.model(seed)
                parameters = dict(model.named_parameters())
                trainable = [parameters.pop(name).flatten() for name in self._shapes]
                torch.cat(trainable, out=flat[row, : self.n_params])
                rest = parameters | dict(model.named_buffers())
                others.append({name: value.clone() for name, value in rest.items()})
        return flat, {name: torch.stack([other[name] for other in others]) for name in others[0]}

    def parts(self, flat: Tensor) -> list[Tensor]:
        """The parameters, `(n_rows, *shape)` each, as views of `(n_rows, width)`."""
        parts = torch.split(flat[:, : self.n_params], self.sizes, dim=1)
        shapes = self._shapes.values()
        return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def state_dict(self, flat: Tensor, buffers: Buffers) -> dict[str, Tensor]:
        """What `task.make_model().load_state_dict` takes, tied weights included."""
        model = self._new_model(0)
        # Not strict: tied weights have one name here, and some buffers are not kept.
        parts = [part[0] for part in self.parts(flat[None])]
        model.load_state_dict(self._named(parts) | buffers, strict=False)
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def train_outputs(
        self, parts: Sequence[Tensor], buffers: Buffers, key: Tensor | None, inputs: Tensor
    ) -> Tensor:
        """Outputs in training mode; buffers such as running statistics are updated in place.

        Args:
            parts: the parameters of one run.
            buffers: of this run.
            key: int64 scalar that random numbers are made from, new at each step; needed
                where the model `draws`.
            inputs: a micro-batch.
        """
        if key is not None:
            for layer in self._train_model.modules():
                if isinstance(layer, KeyedDropout):
                    layer.n_calls = 0
            buffers = buffers | dict.fromkeys(self._keys, key)
        return self._call(self._train_model, parts, buffers, inputs)

    def eval_outputs(self, parts: Sequence[Tensor], buffers: Buffers, inputs: Tensor) -> Tensor:
        """Outputs in evaluation mode."""
        return self._call(self._eval_model, parts, buffers, inputs)

    def _new_model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return copy.deepcopy(self._initial_weights.model(seed))

    def _named(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._shapes, parts, strict=True))

    def _call(
        self, model: nn.Module, parts: Sequence[Tensor], buffers: Buffers, inputs: Tensor
    ) -> Tensor:
        def call() -> Tensor:
            outputs: Tensor = functional_call(model, self._named(parts) | buffers, (inputs,))
            return outputs

        with _formulas():
            if not self._mixed_precision:
                return call()
            with torch.autocast(inputs.device.type, torch.bfloat16):
                return call().to(self.dtype)


@contextlib.contextmanager
def _formulas() -> Iterator[None]:
    """Attention by its formula: the fused kernels know nothing of runs, and do not map."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
