"""Rewinding and drawing again, on masked and structurally pruned modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch_nets import Fused, alive, cnn, transformer

import graphprune.torch as gpt
from graphprune.errors import UsageError
from graphprune.torch.slicing import parameter_cuts, slice_tensor


def disturb(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(1.0)


def test_a_masked_module_is_rewound_under_its_mask() -> None:
    module, _ = transformer()
    start = gpt.snapshot(module)
    gpt.sparsify(module, 0.6)
    masks = {n: m.clone() for n, m in gpt.masks_of(module).items()}
    middle = gpt.snapshot(module)
    disturb(module)
    for checkpoint in (start, middle):  # before and after masks were put on
        gpt.rewind(module, checkpoint)
        plain = gpt.bake(copy.deepcopy(module)).state_dict()
        for name, value in plain.items():
            stays = masks.get(name, torch.ones_like(value, dtype=torch.bool))
            if name == "head.weight":
                stays = masks["table.weight"]
            assert torch.equal(value, torch.where(stays, start[name], 0.0)), name
        disturb(module)


@pytest.mark.parametrize("masked", [False, True])
def test_a_pruned_module_gets_slices_of_the_unpruned_ones_checkpoint(masked: bool) -> None:
    module, example = cnn()
    start = gpt.snapshot(module)
    if masked:
        gpt.sparsify(module, 0.5)
    disturb(module)
    once = gpt.prune(module, example, channels=0.75, align=1)
    twice = gpt.prune(once.module, example, channels=0.75, align=1)
    result = gpt.rewind(twice.module, start, [once, twice.plan])
    value = result.hidden.weight
    expected = start["hidden.weight"]
    for plan in (once.plan, twice.plan):
        cuts = parameter_cuts(plan)
        found = cuts.get("hidden.weight") or cuts["hidden.parametrizations.weight.original"]
        expected = slice_tensor(expected, found)
    if masked:
        expected = torch.where(gpt.masks_of(result)["hidden.weight"], expected, 0.0)
        assert bool((value == 0).any())
    assert torch.equal(value, expected)
    with pytest.raises(UsageError, match="give plan="):
        gpt.rewind(twice.module, start)
    with pytest.raises(UsageError, match="not that of the module before the plan"):
        gpt.rewind(twice.module, start, twice.plan)
    with pytest.raises(UsageError, match=r"has no 'head\.bias'"):
        gpt.rewind(module, {k: t for k, t in start.items() if k != "head.bias"})


def test_scales_folded_into_weights_are_not_lost() -> None:
    module, example = transformer(Fused)
    start = gpt.snapshot(module)
    result = gpt.prune(module, example, head_dims=0.5)
    if not result.scaled:
        pytest.skip("this torch keeps the scale elsewhere")
    with pytest.raises(UsageError, match="scale of its attention"):
        gpt.rewind(result.module, start, result)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cubic"])
@pytest.mark.parametrize("steps", [1, 3])
def test_iterative_pruning_rewinds_before_each_training(schedule: str, steps: int) -> None:
    module, example = cnn()
    start = gpt.snapshot(module)
    disturb(module)
    seen = []

    def train(part: nn.Module, step: int) -> None:
        seen.append(part.head.bias.detach().clone())
        disturb(part)

    result = gpt.iterative(
        module, example, channels=0.5, align=1, steps=steps, schedule=schedule, train=train,
        rewind_to=start,
    )  # fmt: skip
    assert len(seen) == steps
    assert all(torch.equal(bias, start["head.bias"]) for bias in seen)
    again = gpt.rewind(result.module, start, result)
    assert torch.equal(again.head.bias, start["head.bias"])


def test_each_layer_draws_by_its_own_initialiser() -> None:
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4), nn.LSTM(4, 4)
    )
    module.append(nn.MultiheadAttention(4, 2))
    alive(module)
    gpt.sparsify(module, 0.5)
    masks = {n: m.clone() for n, m in gpt.masks_of(module).items()}
    state = torch.get_rng_state()
    gpt.reinitialise(module, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(m, masks[n]) for n, m in gpt.masks_of(module).items())
    assert torch.equal(module[1].running_mean, torch.zeros(8))
    weight = module[3].weight.detach()
    bound = 1 / 8**0.5
    assert weight.abs().max() <= bound
    assert weight[masks["3.weight"]].abs().max() > 0.3 * bound
    assert bool((weight[~masks["3.weight"]] == 0).all())
    first = gpt.snapshot(module)
    disturb(module)
    assert all(
        torch.equal(t, first[k]) for k, t in gpt.reinitialise(module, 7).state_dict().items()
    )
    assert not torch.equal(gpt.reinitialise(module, 8)[3].weight, weight)


def test_what_nothing_draws_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.full((4,), 3.0)), nn.Linear(4, 4)

    module = Scaled()
    gpt.sparsify(module, 0.5)
    before = gpt.snapshot(module)
    with pytest.raises(UsageError, match="nothing draws 'scale'"):
        gpt.reinitialise(module, 0)
    assert all(torch.equal(t, before[k]) for k, t in module.state_dict().items())
    gpt.reinitialise(module, 0, keep="scale")
    assert bool((module.scale == 3).all())
    assert not torch.equal(module.fc.bias, before["fc.bias"])


def test_rewinding_of_the_learning_rate() -> None:
    module = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.4, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def train(steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            module(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    train(3)
    point = gpt.rate_point(optimizer, scheduler)
    first = train(7)
    weights = gpt.snapshot(module)
    gpt.sparsify(module, 0.5, optimizer=optimizer)
    gpt.rewind_rate(point, optimizer, scheduler)
    assert not optimizer.state
    assert torch.equal(module.bias, weights["bias"])
    assert train(7) == first
    gpt.rewind_rate(point, optimizer, scheduler, momentum=True)
    assert optimizer.state
    with pytest.raises(UsageError, match="give the scheduler to both"):
        gpt.rewind_rate(point, optimizer)
    two = torch.optim.SGD([{"params": [module.bias]}, {"params": []}], 0.1)
    with pytest.raises(UsageError, match="parameter groups"):
        gpt.rewind_rate(point, two, scheduler)
