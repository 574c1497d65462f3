"""The fast forms of convolution and max pooling against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._inductor import compile as inductor_compile
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from trainpilot.envs import fast_forms as module
from trainpilot.envs import native_code
from trainpilot.envs.convolution import available, convolution, max_pooling
from trainpilot.envs.fast_forms import FastConv2d, FastMaxPool2d, FastSequential, fast_forms

pytestmark = pytest.mark.skipif(not available(), reason="no C++ compiler")

quick = settings(max_examples=60)


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 5, 3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 4),
    )


def objective(model: nn.Module):
    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, parameters, (images,)), targets)

    return loss


def many_runs(n_runs: int, n_examples: int = 7):
    """A model, its parameters for each run, and each run's images and targets."""
    torch.manual_seed(0)
    models = [small_cnn() for _ in range(n_runs)]
    parameters = {
        name: torch.stack([model.state_dict()[name] for model in models])
        for name in models[0].state_dict()
    }
    images = torch.randn(n_runs, n_examples, 1, 12, 12)
    return models[0], parameters, images, torch.randint(0, 4, (n_runs, n_examples))


def assert_all_close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5, **tolerance)


SIDES = st.tuples(st.integers(1, 13), st.integers(1, 13))
KERNELS = st.tuples(st.integers(1, 7), st.integers(1, 7))


@quick
@given(
    n_examples=st.sampled_from([1, 3, 8, 16, 20, 32, 33, 50]),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 17)),
    sides=SIDES,
    kernel=KERNELS,
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    relu=st.booleans(),
    pooling=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 2)]),
    bias=st.booleans(),
    examples_last=st.booleans(),
)
def test_values_and_gradients_equal_conv2d(
    n_examples, channels, sides, kernel, stride, padding, relu, pooling, bias, examples_last
):
    for i in range(2):
        side = (sides[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1
        assume(side >= pooling[i])
    torch.manual_seed(0)
    images = torch.randn(n_examples, channels[0], *sides)
    if examples_last:
        images = images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    images.requires_grad_()
    scale = (channels[0] * kernel[0] * kernel[1]) ** -0.5
    weight = (scale * torch.randn(channels[1], channels[0], *kernel)).requires_grad_()
    inputs = [images, weight, *([torch.randn(channels[1], requires_grad=True)] if bias else [])]

    def slow(images, weight, bias=None):
        output = functional.conv2d(images, weight, bias, stride, padding)
        output = output.relu() if relu else output
        return output if pooling == (1, 1) else functional.max_pool2d(output, pooling)

    def fast(images, weight, bias=None):
        return convolution(images, weight, bias, stride, padding, relu=relu, pooling=pooling)

    expected, actual = slow(*inputs), fast(*inputs)
    assert_all_close(actual, expected)
    upstream = torch.randn(expected.shape)
    # As a mean: sums over thousands of pixels would need a tolerance of their own.
    scale = (expected.numel() / weight.shape[0]) ** 0.5
    by_slow = torch.autograd.grad(expected, inputs, upstream / scale)
    by_fast = torch.autograd.grad(actual, inputs, upstream / scale)
    assert_all_close(by_fast, by_slow)


@quick
@given(
    n_examples=st.sampled_from([1, 5, 16, 33]),
    n_channels=st.integers(1, 4),
    sides=SIDES,
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_max_pooling_equals_torch_even_where_values_tie(n_examples, n_channels, sides, kernel):
    assume(sides[0] >= kernel[0] and sides[1] >= kernel[1])
    torch.manual_seed(0)
    # Two values only: nearly every window has its maximum several times.
    images = torch.randint(0, 2, (n_examples, n_channels, *sides)).float().requires_grad_()
    expected, actual = functional.max_pool2d(images, kernel), max_pooling(images, kernel)
    assert torch.equal(actual, expected)
    upstream = torch.randn(expected.shape)
    by_slow = torch.autograd.grad(expected, images, upstream)
    by_fast = torch.autograd.grad(actual, images, upstream)
    assert torch.equal(by_fast[0], by_slow[0])


def test_ties_behind_a_fused_convolution_go_where_torch_sends_them():
    images = torch.randint(-1, 2, (16, 1, 8, 8)).float().requires_grad_()
    weight, bias = torch.ones(1, 1, 1, 1), torch.zeros(1)
    for relu in (False, True):
        slow = functional.conv2d(images, weight, bias)
        slow = functional.max_pool2d(slow.relu() if relu else slow, 2)
        fast = convolution(images, weight, bias, relu=relu, pooling=(2, 2))
        upstream = torch.randn(fast.shape)
        by_slow = torch.autograd.grad(slow, images, upstream)[0]
        assert torch.equal(torch.autograd.grad(fast, images, upstream)[0], by_slow)


def test_a_diverged_run_shows_nan_and_leaves_the_others_alone():
    model, parameters, images, targets = many_runs(2)
    fast = vmap(grad_and_value(objective(fast_forms(model))))
    healthy = fast(parameters, images, targets)
    images[0, 0, 0, 0, 0] = torch.nan
    gradients, losses = fast(parameters, images, targets)
    assert losses[0].isnan()
    assert all(gradient[0].isnan().any() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.equal(gradient[1], healthy[0][name][1])


@pytest.mark.parametrize("shared", [False, True], ids=["own images", "shared images"])
def test_every_run_has_its_own_weights_under_vmap(shared):
    model, parameters, images, targets = many_runs(3)
    given = (images[0], targets[0]) if shared else (images, targets)
    in_dims = (0, None, None) if shared else (0, 0, 0)
    expected = vmap(grad_and_value(objective(model)), in_dims)(parameters, *given)
    actual = vmap(grad_and_value(objective(fast_forms(model))), in_dims)(parameters, *given)
    assert_all_close(actual, expected)


def test_several_runs_of_the_smallest_images():
    images, weight = torch.randn(2, 1, 1, 2, 2), torch.randn(2, 1, 1, 1, 1)

    def fast(weight, images):
        return convolution(images, weight, None, pooling=(2, 2)).sum()

    def slow(weight, images):
        return functional.max_pool2d(functional.conv2d(images, weight), 2).sum()

    assert_all_close(
        vmap(grad_and_value(fast))(weight, images), vmap(grad_and_value(slow))(weight, images)
    )


def test_mapped_images_with_one_set_of_weights():
    model, parameters, images, targets = many_runs(3)
    first = {name: value[0] for name, value in parameters.items()}
    for transform in (lambda f: vmap(grad(f), (None, 0, 0)), lambda f: vmap(f, (None, 0, 0))):
        expected = transform(objective(model))(first, images, targets)
        actual = transform(objective(fast_forms(model)))(first, images, targets)
        assert_all_close(actual, expected)


def test_gradient_through_vmap_sums_over_runs_that_share_images():
    model, parameters, images, targets = many_runs(3)

    def total(form):
        mapped = vmap(objective(form), (0, None, None))
        return grad(lambda images: mapped(parameters, images, targets[0]).sum())(images[0])

    assert_all_close(total(fast_forms(model)), total(model))


def test_nested_vmap():
    model, parameters, images, targets = many_runs(4)
    folded = {name: value.unflatten(0, (2, 2)) for name, value in parameters.items()}
    actual = vmap(vmap(grad(objective(fast_forms(model)))))(
        folded, images.unflatten(0, (2, 2)), targets.unflatten(0, (2, 2))
    )
    expected = vmap(grad(objective(model)))(parameters, images, targets)
    assert_all_close({name: value.flatten(0, 1) for name, value in actual.items()}, expected)


def test_traced_and_compiled_it_computes_the_same():
    model, parameters, images, _ = many_runs(3)
    convolutions = fast_forms(model[:5])
    parameters = {name: parameters[name] for name in convolutions.state_dict()}

    def mapped(form):
        def loss(parameters, images):
            return (functional_call(form, parameters, (images,)) ** 2).mean()

        def step(images, *values):
            gradients, losses = vmap(grad_and_value(loss))(
                dict(zip(parameters, values, strict=True)), images
            )
            return (*gradients.values(), losses)

        return step

    given = [images, *parameters.values()]
    with torch.no_grad():
        expected = mapped(model[:5])(*given)
        graph = make_fx(mapped(convolutions))(*given)
        operators = [str(node.target) for node in graph.graph.nodes]
        assert sum("trainpilot.convolution" in operator for operator in operators) == 4
        assert not any("aten.convolution" in operator for operator in operators)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                node.meta.clear()
        actual = inductor_compile(graph, given)(*given)
    assert_all_close(tuple(actual), expected)


def test_a_run_does_not_depend_on_how_many_share_the_call():
    model, parameters, images, _ = many_runs(5)
    # Without the linear layer, whose matrix products torch sums as it likes.
    convolutions = fast_forms(model[:5])
    step = vmap(grad(lambda p, x: (functional_call(convolutions, p, (x,)) ** 2).sum()))
    parameters = {name: parameters[name] for name in convolutions.state_dict()}
    together = step(parameters, images)
    for run in range(5):
        alone = step({name: v[run : run + 1] for name, v in parameters.items()}, images[run, None])
        assert all(torch.equal(alone[name][0], together[name][run]) for name in alone)


def test_names_values_and_the_original_model_are_kept():
    model = small_cnn()
    fast = fast_forms(model)
    assert type(model) is nn.Sequential
    assert type(model[0]) is nn.Conv2d
    assert isinstance(fast, FastSequential)
    assert [type(layer) for layer in fast][:3] == [FastConv2d, nn.ReLU, FastMaxPool2d]
    assert list(fast.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(fast.state_dict()[name], value)
        assert fast.state_dict()[name].data_ptr() != value.data_ptr()


def test_layers_used_one_by_one_and_shared_layers():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool = nn.Conv2d(1, 4, 3, padding="same"), nn.MaxPool2d(2)
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), self.pool)
            self.again = self.body[0]

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.pool(functional.relu(self.first(images)))
            return self.body[0](hidden)[..., :2, :2] + self.again(self.body(hidden))

    torch.manual_seed(0)
    model = Model()
    fast = fast_forms(model)
    assert fast.again is fast.body[0]
    images = torch.randn(6, 1, 9, 9)
    assert_all_close(fast(images), model(images))


UNCOVERED = {
    "groups": nn.Conv2d(4, 4, 3, groups=2),
    "dilation": nn.Conv2d(4, 4, 3, dilation=2),
    "circular padding": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "same padding of an even kernel": nn.Conv2d(4, 4, 2, padding="same"),
    "overlapping windows": nn.MaxPool2d(3, 2),
    "padded windows": nn.MaxPool2d(2, padding=1),
    "ceiled windows": nn.MaxPool2d(2, ceil_mode=True),
    "huge windows": nn.MaxPool2d(17),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("layer", UNCOVERED.values(), ids=UNCOVERED)
def test_what_is_not_covered_stays_torchs(layer):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), layer)
    fast = fast_forms(model)
    assert type(fast[0]) is FastConv2d
    assert type(fast[1]) is type(layer)
    images = torch.randn(3, 4, 18, 18)
    assert_all_close(fast(images), model(images))


def test_a_hooked_layer_stays_torchs():
    model, seen = small_cnn(), []
    model[1].register_forward_hook(lambda layer, given, output: seen.append(output))
    model[3].register_forward_hook(lambda layer, given, output: seen.append(output))
    fast = fast_forms(model)
    images = torch.randn(3, 1, 12, 12)
    assert_all_close(fast(images), model(images))
    assert len(seen) == 4


def test_doubles_and_single_images_are_left_to_torch():
    model = small_cnn()
    fast = fast_forms(model)
    images = torch.randn(3, 1, 12, 12, dtype=torch.float64)
    assert torch.equal(fast.double()(images), model.double()(images))
    assert torch.equal(fast[:5](images[0]), model[:5](images[0]))


def test_what_does_not_fit_is_refused():
    fast = fast_forms(small_cnn())
    with pytest.raises(ValueError, match="do not fit"):
        fast(torch.randn(3, 2, 12, 12))
    with pytest.raises(ValueError, match="do not fit"):
        fast(torch.randn(3, 1, 2, 2))
    with pytest.raises(ValueError, match="smaller than"):
        fast[2](torch.randn(3, 1, 1, 1))


def test_without_a_compiler_a_copy_is_all_that_is_given(monkeypatch):
    monkeypatch.setattr(module, "available", lambda: False)
    model = small_cnn()
    plain = fast_forms(model)
    assert [type(layer) for layer in plain] == [type(layer) for layer in model]
    assert plain[0].weight is not model[0].weight


def test_a_compiler_that_fails_is_said(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho no luck today >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.warns(UserWarning, match=r"convolution\.cpp cannot be used.*no luck today"):
        assert native_code.load.__wrapped__("convolution.cpp") is None


def test_a_library_is_known_by_all_files_that_it_is_made_of(tmp_path):
    (tmp_path / "a.cpp").write_text('#include <vector>\n#include "b.h"\nint a;\n')
    (tmp_path / "b.h").write_text('#include "c.h"\n#include "b.h"\n')
    (tmp_path / "c.h").write_text("int c;\n")
    texts = native_code._texts(tmp_path / "a.cpp")
    assert texts == [(tmp_path / name).read_text() for name in ("a.cpp", "b.h", "c.h")]
