"""Compiled functions: what eager torch computes, and one compilation for equal traces."""

from __future__ import annotations

import torch

from trainpilot.envs.compiling import compile_function


def scaled(factor):
    return lambda x, y: (torch.sin(x) * factor + y, x.sum())


def test_a_compiled_function_computes_what_eager_torch_does():
    x, y = torch.randn(3, 5), torch.randn(3, 5)
    compiled = compile_function(scaled(2.0), [x, y])
    for given in ((x, y), (y, x)):
        for found, expected in zip(compiled(*given), scaled(2.0)(*given), strict=True):
            torch.testing.assert_close(found, expected)


def test_equal_traces_are_compiled_once_and_others_anew():
    x, y = torch.randn(3, 5), torch.randn(3, 5)
    first = compile_function(scaled(2.0), [x, y])
    assert compile_function(scaled(2.0), [y, x]) is first
    other = compile_function(scaled(3.0), [x, y])
    assert other is not first
    torch.testing.assert_close(other(x, y)[0], torch.sin(x) * 3 + y)
    torch.testing.assert_close(first(x, y)[0], torch.sin(x) * 2 + y)
    # Other shapes, strides or number types are another function.
    for given in (torch.randn(5, 3), torch.randn(5, 3).T, torch.randn(3, 5).double()):
        own = compile_function(scaled(2.0), [given, given])
        assert own is not first
        torch.testing.assert_close(own(given, given)[0], torch.sin(given) * 2 + given)


def test_functions_that_write_to_what_they_hold_share_nothing():
    def counting():
        held = torch.zeros(3)
        return held, lambda x: (x + held.add_(1),)

    (one, first), (two, second) = counting(), counting()
    x = torch.ones(3)
    functions = [compile_function(each, [x]) for each in (first, second)]
    before = one.clone(), two.clone()
    functions[1](x)
    assert torch.equal(one, before[0])
    assert torch.equal(two, before[1] + 1)


def test_functions_that_branch_by_operators_of_torch_are_compiled():
    def either(x):
        return (torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)),)

    compiled = compile_function(either, [torch.ones(3)])
    for given in (torch.ones(3), -torch.ones(3)):
        torch.testing.assert_close(compiled(given)[0], either(given)[0])
