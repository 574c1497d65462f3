"""Many copies of a model as one flat tensor of parameters."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.protocol import InnerTask

Buffers = dict[str, Tensor]


class FlatModel:
    """A model whose trainable parameters are given as a vector.

    Args:
        task: its `make_model` gives the model; parameters that need no gradient stay as the
            model was made.

    Raises:
        TrainpilotError: if the model has no trainable parameter.

    Attributes:
        n_params: number of trainable parameters.
    """

    def __init__(self, task: InnerTask) -> None:
        self._task = task
        self._train_model = self.new_model(seed=0).train()
        self._eval_model = copy.deepcopy(self._train_model).eval()
        self._shapes = {
            name: parameter.shape
            for name, parameter in self._train_model.named_parameters()
            if parameter.requires_grad
        }
        if not self._shapes:
            raise TrainpilotError(
                f"the model of task '{task.name}' must have a trainable parameter; given: none"
            )
        self.n_params = sum(math.prod(shape) for shape in self._shapes.values())

    def new_model(self, seed: int) -> nn.Module:
        """A model with the initial weights of a seed; the global generator is left untouched."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._task.make_model()

    def initial_state(self, seed: int) -> tuple[Tensor, Buffers]:
        """Initial weights of a seed, `(n_params,)`, and all that the run does not train."""
        state = self.new_model(seed)
        parameters = dict(state.named_parameters())
        trainable = [parameters.pop(name).detach().flatten() for name in self._shapes]
        fixed = {name: value.detach() for name, value in parameters.items()}
        return torch.cat(trainable).float(), fixed | dict(state.named_buffers())

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as views of `(n_params,)`."""
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        parts = torch.split(flat, sizes)
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def state_dict(self, flat: Tensor, buffers: Buffers) -> dict[str, Tensor]:
        """What `task.make_model().load_state_dict` takes, tied weights included."""
        model = self.new_model(seed=0)
        # Not strict: tied weights have one name here, and some buffers are not kept.
        model.load_state_dict(self.unflatten(flat) | buffers, strict=False)
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def train_outputs(self, flat: Tensor, buffers: Buffers, inputs: Tensor) -> Tensor:
        """Outputs in training mode; buffers such as running statistics are updated in place."""
        return self._call(self._train_model, flat, buffers, inputs)

    def eval_outputs(self, flat: Tensor, buffers: Buffers, inputs: Tensor) -> Tensor:
        """Outputs in evaluation mode."""
        return self._call(self._eval_model, flat, buffers, inputs)

    def _call(self, model: nn.Module, flat: Tensor, buffers: Buffers, inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(model, self.unflatten(flat) | buffers, (inputs,))
        return outputs
