"""Dropout is off inside the block, whatever form it has, and as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from graphprune.torch.dropout import without_dropout


class Literal(nn.Module):
    """Shares in attributes, layers and literals; stochastic depth written out."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.attention_drop = 0.3

    def forward(self, x: Tensor) -> Tensor:
        y = functional.dropout(self.drop(x), self.attention_drop, self.training)
        mask = torch.ops.aten.bernoulli.p(torch.ones_like(y[:, :1]), 0.5)
        return y * torch.ops.aten.div.Scalar(mask, 0.5)


def written_out() -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    ops = torch.ops.aten
    y = graph.call_function(ops.dropout.default, (x, 0.5, True))
    ones = graph.call_function(ops.ones_like.default, (y,))
    mask = graph.call_function(ops.bernoulli.p, (ones, 0.25))
    share = graph.call_function(ops.div.Scalar, (mask, 0.25))
    graph.output(graph.call_function(ops.mul.Tensor, (y, share)))
    return fx.GraphModule(nn.Module(), graph)


X = torch.arange(1.0, 65.0).reshape(8, 8)


def test_attributes_and_layers() -> None:
    module = Literal().train()
    with without_dropout(module):
        assert (module.drop.p, module.attention_drop) == (0.0, 0.0)
    assert (module.drop.p, module.attention_drop) == (0.5, 0.3)


def test_literals_of_a_graph() -> None:
    module = written_out()
    torch.manual_seed(0)
    assert not torch.equal(module(X), X)
    with without_dropout(module):
        assert torch.equal(module(X), X)
    torch.manual_seed(0)
    first = module(X)
    torch.manual_seed(1)
    assert not torch.equal(module(X), first)


def test_it_is_undone_where_something_fails() -> None:
    module = written_out()
    code = module.code

    def fail() -> None:
        with without_dropout(module):
            assert module.code != code
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        fail()
    assert module.code == code


def test_no_module_is_nothing_to_do() -> None:
    with without_dropout(None):
        pass
