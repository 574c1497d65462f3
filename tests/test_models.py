"""Which models the engine maps over runs, and what it does with the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.mappable import make_mappable, uniform_bits
from trainpilot.inner_tasks import TensorTask

VOCABULARY = 7


class Last(nn.Module):
    """A recurrent layer's outputs at the last time, and a linear layer."""

    def __init__(self, layer: type[nn.RNNBase], **settings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.layer = layer(4, 5, batch_first=True, **settings)
        self.head = nn.Linear(5, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens))[0][:, -1])


class Attention(nn.Module):
    """An embedding and torch's own transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens)).mean(1))


class Branching(nn.Module):
    """Looks at a value before it decides, which no map over runs can do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.linear(inputs)
        return outputs * 2 if outputs.sum() > 0 else outputs


class OwnDropout(nn.Module):
    """Draws its random numbers by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(nn.functional.dropout(inputs, 0.5, self.training))


def token_task(model, length: int = 6) -> TensorTask:
    tokens = torch.randint(0, VOCABULARY, (80, length), generator=torch.Generator().manual_seed(0))
    return TensorTask(
        "tokens", model=model, inputs=tokens, targets=tokens[:, 0], micro_batch_size=8
    )


def image_task(model) -> TensorTask:
    images = torch.randn(80, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    return TensorTask(
        "images", model=model, inputs=images, targets=torch.arange(80) % 3, micro_batch_size=8
    )


def vector_task(model) -> TensorTask:
    inputs = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    return TensorTask(
        "vectors", model=model, inputs=inputs, targets=(inputs[:, 0] > 0).long(),
        micro_batch_size=8,
    )  # fmt: skip


TASKS = {
    "mlp": vector_task(
        lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))
    ),
    "cnn": image_task(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 3, 4), nn.Flatten(),
        )
    ),
    "rnn": token_task(lambda: Last(nn.RNN)),
    "gru": token_task(lambda: Last(nn.GRU)),
    "lstm": token_task(lambda: Last(nn.LSTM, num_layers=2)),
    "transformer": token_task(Attention),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_a_model_trains_as_plain_torch_trains_it(name):
    task = TASKS[name]
    engine = Engine(task, 2, n_micro_batches=12)
    engine.reset([0, 1], [3, 4])
    signals = engine.advance(Hyperparameters.full(2, optimizer="sgd", learning_rate=0.1), 12)
    torch.manual_seed(4)
    model = task.make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for indices in engine._order[1].long():
        train = task.splits.train
        loss = task.loss(model(train.inputs[indices]), train.targets[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(signals.train_loss[1], losses, rtol=2e-4)


def test_compiled_models_train_as_eager_ones():
    curves = []
    for compiled in (False, True):
        task = token_task(lambda: Last(nn.GRU), length=3)
        engine = Engine(task, 2, n_micro_batches=12, compiled=compiled)
        engine.reset([0, 1], [3, 4])
        curves.append(engine.advance(Hyperparameters.full(2), 12).train_loss)
    np.testing.assert_allclose(*curves, rtol=1e-4)


@pytest.mark.parametrize(
    ("layer", "settings"),
    [
        (nn.RNN, {"nonlinearity": "relu"}),
        (nn.GRU, {"num_layers": 2, "bias": False}),
        (nn.LSTM, {"num_layers": 2, "batch_first": True}),
    ],
)
def test_unrolled_layers_give_what_torch_s_give(layer, settings):
    torch.manual_seed(0)
    original = layer(3, 4, **settings)
    inputs = torch.randn(5, 6, 3)
    n_batch = 5 if settings.get("batch_first") else 6
    state = torch.randn(settings.get("num_layers", 1), n_batch, 4)
    given = (state, state / 2) if layer is nn.LSTM else state
    # A copy is made of the module's tree, since the replacement shares the parameters.
    unrolled = make_mappable(nn.Sequential(original))[0]
    assert type(unrolled) is not layer
    for arguments in ((inputs,), (inputs, given), (inputs[0],)):
        expected, got = original(*arguments), unrolled(*arguments)
        torch.testing.assert_close(got[0], expected[0])
        torch.testing.assert_close(got[1], expected[1])


def test_what_has_no_mappable_form_stays_as_it_is():
    for layer in (nn.GRU(3, 4, bidirectional=True), nn.LSTM(3, 4, proj_size=2), nn.Linear(3, 4)):
        assert make_mappable(layer) is layer


@pytest.mark.parametrize("model", [Branching, OwnDropout])
def test_a_model_that_cannot_be_mapped_trains_row_by_row_and_says_so(model):
    task = vector_task(model)
    with pytest.warns(UserWarning, match="cannot be mapped over runs .*one after the other"):
        engine = Engine(task, 3, n_micro_batches=20, compiled=True)
    assert "slow" in engine.report
    curves = []
    for _ in range(2):
        engine.reset(range(3), [1, 2, 1])
        curves.append(engine.advance(Hyperparameters.full(3, learning_rate=0.1), 20).train_loss)
    np.testing.assert_array_equal(curves[0], curves[1])
    np.testing.assert_array_equal(curves[0][0], curves[0][2])
    assert curves[0][0, -5:].mean() < curves[0][0, :5].mean()


def dropped_task() -> TensorTask:
    return vector_task(
        lambda: nn.Sequential(
            nn.Linear(3, 30), nn.Dropout(0.3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 2)
        )
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_dropout_does_not_depend_on_the_rows_beside(compiled):
    task = dropped_task()
    curves = []
    for seeds, row in (([5], 0), (list(range(20)), 5)):
        # Compiling takes most of the time: the lone run stays eager.
        engine = Engine(task, len(seeds), n_micro_batches=10, compiled=compiled and len(seeds) > 1)
        engine.reset(range(len(seeds)), seeds)
        curves.append(engine.advance(Hyperparameters.full(len(seeds)), 10).train_loss[row])
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


def test_dropout_drops_its_share_anew_at_each_step_and_keeps_the_mean():
    layer = make_mappable(nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.3)))
    ones = torch.ones(50, 40, 4, 5)
    masks = []
    for key in (1, 2):
        for part in layer:
            part.trainpilot_key.fill_(key)
            masks.append(part(ones))
    for mask in masks:
        assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
        assert mask.mean() == pytest.approx(1.0, abs=0.05)
    assert (masks[1].amax((2, 3)) == masks[1].amin((2, 3))).all()  # whole channels
    # Two keys, and two layers of one model: as different as independent masks are.
    for one, other in ((masks[0], masks[2]), (masks[1], masks[3]), (masks[0], masks[1])):
        assert ((one > 0) == (other > 0)).float().mean() == pytest.approx(0.58, abs=0.05)
    assert torch.equal(layer.eval()(ones), ones)


def test_bits_are_uniform_and_uncorrelated_from_key_to_key():
    bits = torch.stack([uniform_bits(torch.tensor(key), (4096,)) for key in range(32)]).double()
    assert bits.min() >= 0
    assert bits.max() < 2**32
    shares = bits / 2**32
    assert shares.mean() == pytest.approx(0.5, abs=0.005)
    assert shares.var() == pytest.approx(1 / 12, abs=0.002)
    correlation = np.corrcoef(shares.numpy()) - np.eye(32)
    assert np.abs(correlation).max() < 5 / 4096**0.5
    neighbours = np.corrcoef(shares[:, :-1].flatten(), shares[:, 1:].flatten())[0, 1]
    assert abs(neighbours) < 0.015


def test_mixed_precision_trains_nearly_as_full_precision():
    task = vector_task(lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)))
    curves = []
    for mixed_precision in (False, True):
        engine = Engine(task, 2, n_micro_batches=10, mixed_precision=mixed_precision)
        engine.reset([0, 1], [3, 4])
        curves.append(engine.advance(Hyperparameters.full(2), 10).train_loss)
    # bfloat16 has 8 bits of precision.
    np.testing.assert_allclose(*curves, rtol=0.05)
    assert (curves[0] != curves[1]).any()


def test_one_dropout_layer_may_stand_anywhere_and_draws_anew_each_time():
    dropout = nn.Dropout(0.5)
    layers = [nn.Identity() for _ in range(40)]
    task = vector_task(
        lambda: nn.Sequential(nn.Linear(3, 9), dropout, *layers, dropout, nn.Linear(9, 2))
    )
    engine = Engine(task, 2, n_micro_batches=4)
    engine.reset([0, 1], [1, 2])
    assert np.isfinite(engine.advance(Hyperparameters.full(2), 4).train_loss).all()
    twice = make_mappable(nn.Sequential(dropout, nn.Identity(), dropout))
    assert twice[0] is twice[2]
    twice[0].trainpilot_key.fill_(3)
    kept = (twice(torch.ones(4000)) > 0).float().mean()
    assert kept == pytest.approx(0.25, abs=0.04)  # 0.5 were the two masks the same
