"""Scores of single weights against what they are defined as."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune.torch as gpt
from graphprune.errors import UsageError
from graphprune.torch.prunable import prunable
from graphprune.torch.weight_scores import input_norms


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def losses(module: nn.Module) -> torch.Tensor:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.cross_entropy(module(x), torch.tensor([0, 1, 2, 0, 1]), reduction="none")


def pruned_by(module: nn.Module, scores: torch.Tensor, count: int) -> None:
    """The masked weights are exactly the `count` of lowest score."""
    masks = torch.cat([m.flatten() for m in gpt.masks_of(module).values()])
    assert int((~masks).sum()) == count
    assert scores[~masks].max() <= scores[masks].min()


@pytest.mark.parametrize("criterion", ["taylor", "taylor-abs", "fisher", "movement"])
def test_gradient_scores(criterion: str) -> None:
    module = net()
    collected = gpt.WeightScores(module, criterion)
    collected.accumulate(losses(module))
    parameters = [module[0].weight, module[2].weight]
    rows = [
        torch.cat([(p * g).flatten() for p, g in zip(parameters, found, strict=True)]).detach()
        for found in (torch.autograd.grad(losses(module)[i], parameters) for i in range(5))
    ]
    products = torch.stack(rows)
    expected = {
        "taylor": products.mean(0).abs(),
        "taylor-abs": products.abs().mean(0),
        "fisher": products.square().mean(0) / 2,
        "movement": -products.sum(0),
    }[criterion]
    found = torch.cat([collected.of(n).flatten() for n in ("0.weight", "2.weight")])
    torch.testing.assert_close(found, expected)
    gpt.sparsify(module, 0.5, scores=collected)
    pruned_by(module, found, 36)


def test_gradients_of_the_users_backward_on_a_masked_module() -> None:
    module = net()
    gpt.sparsify(module, 0.3)
    collected = gpt.WeightScores(module)
    with pytest.raises(UsageError, match="no weight has a gradient"):
        collected.accumulate()
    losses(module).mean().backward()
    collected.accumulate()
    report = gpt.sparsify(module, 0.6, scores=collected)
    assert report.zeros == round(0.6 * 72)


@pytest.mark.parametrize("criterion", ["magnitude", "l1", "l2"])
def test_scores_of_weights_alone(criterion: str) -> None:
    module = net()
    with torch.no_grad():
        module[2].weight.mul_(10)
    sizes = [m.weight.detach().abs() for m in (module[0], module[2])]
    order = {"l1": 1, "l2": 2}.get(criterion)
    if order:
        sizes = [s / s.pow(order).mean() ** (1 / order) for s in sizes]
    gpt.sparsify(module, 0.5, criterion=criterion)
    pruned_by(module, torch.cat([s.flatten() for s in sizes]), 36)


def test_wanda() -> None:
    module = net()
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(2)) * torch.arange(1.0, 7)
    gpt.sparsify(module, 0.5, criterion="wanda", scope="local", inputs=[x[:4], (x[4:],)])
    found = net()[0].weight.detach().abs() * x.square().mean(0).sqrt()
    mask = gpt.masks_of(module)["0.weight"]
    assert bool((mask.sum(1) == 3).all())
    for row, stays in zip(found, mask, strict=True):
        assert row[~stays].max() <= row[stays].min()
    with pytest.raises(UsageError, match="at least one batch"):
        gpt.sparsify(net(), 0.5, criterion="wanda", inputs=[])


def test_input_norms_of_every_kind_of_layer() -> None:
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(3))
    per_channel = x.square().mean((0, 2, 3)).sqrt()
    conv = nn.Conv2d(4, 6, 3, groups=2)
    found = input_norms(conv, prunable(conv), [x])["weight"]
    assert found.shape == (6, 2, 1, 1)
    torch.testing.assert_close(found[0, :, 0, 0], per_channel[:2])
    torch.testing.assert_close(found[5, :, 0, 0], per_channel[2:])
    up = nn.ConvTranspose2d(4, 6, 3)
    torch.testing.assert_close(
        input_norms(up, prunable(up), [x])["weight"], per_channel.reshape(4, 1, 1, 1)
    )
    q, k, v = torch.randn(3, 2, 7, 8, generator=torch.Generator().manual_seed(4))
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    found = input_norms(attention, prunable(attention), [(q, k, v)])["in_proj_weight"]
    for rows, given in zip(found.chunk(3), (q, k, v), strict=True):
        torch.testing.assert_close(rows[0], given.square().mean((0, 1)).sqrt())
    lstm = nn.LSTM(8, 4)
    found = input_norms(lstm, prunable(lstm), [q])
    assert [*found] == ["weight_ih_l0"]
    torch.testing.assert_close(found["weight_ih_l0"][0], q.square().mean((0, 1)).sqrt())


def test_damaged_weights_are_named() -> None:
    module = net()
    with torch.no_grad():
        module[2].weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"'2\.weight' holds NaN"):
        gpt.sparsify(module, 0.5)
