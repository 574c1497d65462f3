"""What the benchmarks train: four models, and the plain PyTorch loop beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainpilot.inner_tasks.models import mlp
from trainpilot.inner_tasks.protocol import InnerTask, Split, Splits
from trainpilot.inner_tasks.sequence_models import TransformerClassifier
from trainpilot.inner_tasks.tensor_task import TensorTask
from trainpilot.inner_tasks.text import N_CHARACTERS, docstrings_mlp
from trainpilot.inner_tasks.vision import digits_mlp


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling, for 28x28 images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = mlp(400, (120, 84), 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `(n_examples, 10)`."""
        outputs: Tensor = self.head(self.features(images))
        return outputs


def dacbench_network() -> nn.Module:
    """The network of DACBench's CIFAR-10 instances, without its log-softmax.

    Its loss, the negative log-likelihood, and ours, the cross-entropy, come to the same.
    """
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def images(name: str, model: Callable[[], nn.Module], shape: tuple[int, ...]) -> TensorTask:
    """Random images, whose labels a random linear map gives; the speed is that of real ones."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, *shape, generator=generator)
    labels = (inputs.flatten(1) @ torch.randn(inputs[0].numel(), 10, generator=generator)).argmax(1)
    return TensorTask(name, model=model, inputs=inputs, targets=labels, micro_batch_size=32)


def sequences(context: int = 16) -> TensorTask:
    """Windows of the standard library's docstrings for the transformer."""
    windows = docstrings_mlp(context=context).splits
    splits = Splits(*(Split(*part) for part in windows))
    return TensorTask(
        "transformer",
        model=lambda: TransformerClassifier(N_CHARACTERS, context, 32, 4, N_CHARACTERS),
        splits=splits,
        micro_batch_size=32,
    )


#: The subjects, by the name that results have.
SUBJECTS: dict[str, Callable[[], InnerTask]] = {
    "mlp": lambda: digits_mlp(micro_batch_size=64),
    "cnn": lambda: images("cnn", LeNet, (1, 28, 28)),
    "charlm": docstrings_mlp,
    "transformer": sequences,
}


#: Of `variants`, by what trains them: the second is none that the chains of our own have.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"native": nn.ReLU, "torch_compile": nn.Mish}


def variants(n_tasks: int, activation: Callable[[], nn.Module] = nn.ReLU) -> list[InnerTask]:
    """Digits with MLPs of different widths: none can use what another has compiled."""
    splits = digits_mlp().splits

    def model(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, 32), activation(),
            nn.Linear(32, 10),
        )  # fmt: skip

    return [
        TensorTask(f"digits_{width}", model=functools.partial(model, width), splits=splits)
        for width in range(16, 16 + n_tasks)
    ]


def plain_loop(task: InnerTask) -> Callable[[int], None]:
    """The training that everybody writes: one model, one optimizer, one batch after the other.

    Returns:
        A function that makes so many steps of Adam and goes on where it stopped.
    """
    torch.manual_seed(0)
    model = task.make_model()
    optimizer = torch.optim.Adam(model.parameters())
    train = task.splits.train
    order = iter([])
    loss_function = nn.functional.cross_entropy

    def steps(n_steps: int) -> None:
        nonlocal order
        for _ in range(n_steps):
            indices = next(order, None)
            if indices is None or len(indices) < task.micro_batch_size:
                order = iter(torch.randperm(len(train.inputs)).split(task.micro_batch_size))
                indices = next(order)
            loss = loss_function(model(train.inputs[indices]), train.targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps
