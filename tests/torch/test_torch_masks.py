"""Masks of single weights: what is zero stays zero, and everything else is as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch_nets import cnn, transformer

import graphprune.torch as gpt
from graphprune.errors import NothingGainedError, UsageError
from graphprune.torch.prunable import prunable


class Mixed(nn.Module):
    """Tied embedding and head, two recurrent layers, attention, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up = nn.ConvTranspose1d(16, 16, 1)
        self.fc, self.head = nn.Linear(16, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.gru(self.lstm(self.table(tokens))[0])[0]
        x = x + self.attention(x, x, x)[0]
        x = x + self.up(x.transpose(1, 2)).transpose(1, 2)
        return self.head(torch.tanh(self.fc(x)))


TOKENS = torch.randint(0, 20, (4, 5), generator=torch.Generator().manual_seed(0))


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed()


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(module(TOKENS).flatten(0, 1), TOKENS.flatten()).backward()
    optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_pruned_weights_stay_exactly_zero(kind: str) -> None:
    module = mixed()
    optimizer = OPTIMIZERS[kind](module.parameters())
    for _ in range(2):
        step(module, optimizer)  # there is momentum where the mask will be
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    report = gpt.sparsify(module, 0.7)
    weights = prunable(module)
    assert {id(w.original) for w in weights} <= held
    free = {w.name: w.value().clone() for w in weights}
    for _ in range(10):
        step(module, optimizer)
    for weight in weights:
        for holder in weight.holders:
            assert bool((getattr(holder.part, holder.attribute)[~weight.mask] == 0).all())
        assert not torch.equal(weight.value(), free[weight.name])
    assert report.zeros == sum(int((w.value() == 0).sum()) for w in weights)


def test_momentum_under_the_mask_can_be_cleared() -> None:
    module = mixed()
    optimizer = OPTIMIZERS["sgd"](module.parameters())
    step(module, optimizer)
    gpt.sparsify(module, 0.7, optimizer=optimizer)
    for _ in range(3):
        step(module, optimizer)
    assert all(bool((w.original[~w.mask] == 0).all()) for w in prunable(module))


def test_sparsity_is_exact_and_tied_weights_count_once() -> None:
    module = mixed()
    total = sum(p.numel() for n, p in module.named_parameters() if p.ndim > 1)
    for share in (0.1234, 0.5, 0.98):
        report = gpt.sparsify(module, share)
        assert (report.elements, report.zeros) == (total, round(share * total))
    assert module.head.weight.equal(module.table.weight)
    assert module.head.parametrizations.weight[0] is module.table.parametrizations.weight[0]
    assert report.to_json()["sparsity"] == pytest.approx(0.98, abs=1 / total)


def test_the_smallest_leave_first() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    before = torch.cat([m.weight.detach().abs().flatten() for m in module])
    gpt.sparsify(module, 0.5)
    after = torch.cat([m.weight.detach().flatten() for m in module])
    assert before[after == 0].max() <= before[after != 0].min()
    local = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    report = gpt.sparsify(local, scope={"0": 0.25, "1.weight": 0.75})
    assert [w.zeros for w in report.weights] == [16, 24]
    report = gpt.sparsify(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), 0.5, scope="local")
    assert [w.zeros for w in report.weights] == [32, 16]


def test_masks_only_grow() -> None:
    module = mixed()
    gpt.sparsify(module, 0.5)
    first = {n: m.clone() for n, m in gpt.masks_of(module).items()}
    gpt.sparsify(module, 0.8, criterion="random", seed=1)
    for name, mask in gpt.masks_of(module).items():
        assert not bool((mask & ~first[name]).any())
    with pytest.raises(UsageError, match="masked already"):
        gpt.sparsify(module, 0.6)


def test_bake_leaves_a_plain_module_of_the_same_parameters() -> None:
    module, plain = mixed(), mixed()
    parameters = dict(module.named_parameters())
    gpt.sparsify(module, 0.6)
    outputs = module(TOKENS)
    assert not torch.allclose(outputs, plain(TOKENS))
    gpt.bake(module)
    assert [*module.state_dict()] == [*plain.state_dict()]
    assert all(p is parameters[n] for n, p in module.named_parameters())
    assert [type(m) for m in module.modules()] == [type(m) for m in plain.modules()]
    assert torch.equal(module(TOKENS), outputs)
    zeros = sum(int((p == 0).sum()) for p in module.parameters() if p.ndim > 1)
    assert zeros == round(0.6 * sum(p.numel() for p in module.parameters() if p.ndim > 1))
    bits = torch.cat([p.detach().flatten() for p in module.parameters() if p.ndim > 1])
    assert not bool(torch.signbit(bits[bits == 0]).any())


def test_copies_and_state_dicts() -> None:
    module = mixed()
    gpt.sparsify(module, 0.6)
    outputs = module(TOKENS)  # recurrent layers make lists of their weights here
    other = copy.deepcopy(module)
    gpt.sparsify(other, 0.9)
    assert not torch.equal(other(TOKENS), outputs)
    gpt.bake(other)
    assert torch.equal(module(TOKENS), outputs)
    fresh = Mixed()
    state = module.state_dict()
    gpt.put_masks(fresh, state).load_state_dict(state)
    assert torch.equal(fresh(TOKENS), outputs)
    assert fresh.head.weight.equal(fresh.table.weight)
    # A second attribute of a layer whose copy has one mask must not show in the copy.
    one = nn.LSTM(4, 4)
    gpt.sparsify(one, 0.5, only="weight_ih_l0")
    two = copy.deepcopy(one)
    gpt.sparsify(two, 0.5, only="weight_hh_l0")
    assert "weight_hh_l0" in dict(one.named_parameters())
    assert one(torch.ones(2, 1, 4))[0].isfinite().all()


def test_patterns() -> None:
    module = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Conv2d(4, 8, 1))
    report = gpt.sparsify(module, pattern="2:4")
    assert report.sparsity == 0.5
    groups = module[0].weight.detach().movedim(1, -1).reshape(-1, 4)
    assert bool(((groups != 0).sum(1) == 2).all())
    gpt.sparsify(other := nn.Linear(6, 8), pattern="1:4", pattern_axis=0)
    assert bool(((other.weight.T.reshape(-1, 4) != 0).sum(1) == 1).all())
    with pytest.raises(UsageError, match=r"2:4 does not divide axis 1 of 'weight' .*exclude"):
        gpt.sparsify(nn.Linear(6, 8), pattern="2:4")


def test_refusals_change_nothing() -> None:
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    with pytest.raises(UsageError, match=r"'0.weight' carries a parametrisation already .*exclude"):
        gpt.sparsify(module, 0.5)
    assert not gpt.masks_of(module)
    assert gpt.sparsify(module, 0.5, exclude="0").elements == 16
    old = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(4, 4)))
    with pytest.raises(UsageError, match=r"'0\.weight' is computed"):
        gpt.sparsify(old, 0.5)
    with pytest.raises(UsageError, match="sparse=True"):
        gpt.sparsify(nn.Embedding(4, 4, sparse=True), 0.5)
    with pytest.raises(UsageError, match="run the module once"):
        gpt.sparsify(nn.LazyLinear(4), 0.5)
    with pytest.raises(NothingGainedError, match="no weight that is pruned"):
        gpt.sparsify(nn.BatchNorm1d(4), 0.5)
    for wrong, said in (
        ({"sparsity": 1.5}, "out of range"),
        ({}, "say how much"),
        ({"sparsity": 0.5, "scope": "wide"}, "neither"),
        ({"sparsity": 0.5, "criterion": "best"}, "unknown criterion"),
        ({"sparsity": 0.5, "only": "x*"}, "names no weight"),
        ({"scope": {"x": 0.5}}, "which is no weight"),
        ({"scope": {"*": 1.0}}, "0 <= S < 1"),
        ({"sparsity": 0.5, "criterion": "taylor"}, "needs gradients"),
        ({"sparsity": 0.5, "criterion": "wanda"}, "needs inputs"),
        ({"pattern": "4:2"}, "not N:M"),
    ):
        plain = nn.Linear(4, 4)
        with pytest.raises(UsageError, match=said):
            gpt.sparsify(plain, **wrong)
        assert type(plain) is nn.Linear
    with pytest.raises(UsageError, match="must be bool"):
        gpt.put_masks(nn.Linear(4, 4), {"weight": torch.ones(4, 4)})
    with pytest.raises(UsageError, match="no weight of the module"):
        gpt.put_masks(nn.Linear(4, 4), {"bias": torch.ones(4, dtype=torch.bool)})


def test_empty_units_leave_physically() -> None:
    module, example = cnn()
    with torch.no_grad():
        module.hidden.bias[3:9] = 0
    masks = {"hidden.weight": torch.ones(24, 64, dtype=torch.bool)}
    masks["hidden.weight"][3:9] = False  # nothing makes these
    masks["head.weight"] = torch.ones(5, 24, dtype=torch.bool)
    masks["head.weight"][:, 20:] = False  # nothing reads these
    gpt.put_masks(module, masks)
    found = gpt.empty_units(module, example)
    (group,) = (g for g in found.groups if g.leave)
    assert group.units == (3, 4, 5, 6, 7, 8, 20, 21, 22, 23)
    module.eval()
    expected = module(*example)
    result = gpt.prune(gpt.bake(module), example, plan=found.plan)
    assert result.module.hidden.out_features == 14
    torch.testing.assert_close(result.module(*example), expected)
    assert gpt.empty_units(*transformer()).plan is None


def test_masked_modules_can_be_pruned_as_they_are() -> None:
    module, example = cnn()
    gpt.sparsify(module, 0.5)
    result = gpt.prune(module, example, channels=0.5)
    masks = gpt.masks_of(result.module)
    assert masks["hidden.weight"].shape == result.module.hidden.weight.shape
    assert 0.1 < float((result.module.hidden.weight == 0).float().mean()) < 0.9
