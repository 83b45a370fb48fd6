"""Iterative magnitude pruning: what each round starts from, and going on after an interruption."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune.torch as gpt
from graphprune.errors import UsageError

DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
LABELS = (DATA[:, 0] * DATA[:, 1] > 0).long()


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))


class Loop:
    """Twelve steps on random batches; notes what each round began with."""

    def __init__(self, stop_in: int = -1) -> None:
        self.begun: list[dict[str, torch.Tensor]] = []
        self.after: dict[int, dict[str, torch.Tensor]] = {}
        self.stop_in = stop_in

    def __call__(self, module: nn.Module, number: int) -> dict[str, float]:
        if number == self.stop_in:
            raise KeyboardInterrupt
        self.begun.append(gpt.bake(copy.deepcopy(module)).state_dict())
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for step in range(1, 13):
            at = torch.randint(0, 64, (16,))
            loss = nn.functional.cross_entropy(module(DATA[at]), LABELS[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number == 0:
                self.after[step] = gpt.snapshot(module)
        return {"loss": loss.item()}


def run(loop: Loop, **settings: Any) -> Any:
    torch.manual_seed(11)
    return gpt.lottery(net(), loop, 0.9, **{"steps": 3, **settings})


@pytest.mark.parametrize("moment", [0, 5, "state"])
def test_rewound(moment: Any) -> None:
    loop = Loop()
    given = {k: t + 1 for k, t in net().state_dict().items()}
    found = run(loop, rewind_to=given if moment == "state" else moment)
    start = given if moment == "state" else loop.after[5] if moment else net().state_dict()
    masks = gpt.masks_of(found.module)
    for begun in loop.begun[1:]:
        for name, value in begun.items():
            zero = value == 0 if name in masks else torch.zeros_like(value, dtype=torch.bool)
            assert torch.equal(value, torch.where(zero, 0, start[name].to(value.dtype))), name
    total = 6 * 24 + 24 * 2
    assert [r.zeros for r in found.rounds] == [
        0, *(round((1 - 0.1 ** (t / 3)) * total) for t in (1, 2, 3))
    ]  # fmt: skip
    assert all(r.result["loss"] > 0 for r in found.rounds)
    assert len(gpt.masks_of(gpt.bake(found.module))) == 0


def test_preserved_and_random() -> None:
    loop = Loop()
    run(loop, initialisation="preserved")
    later = [b["0.bias"] for b in loop.begun]
    assert torch.equal(later[1], loop.after[12]["0.bias"])
    assert not torch.equal(later[2], later[1])
    other = Loop()
    found = run(other, initialisation="random", schedule="cubic")
    assert found.start is None
    biases = [b["0.bias"] for b in other.begun[1:]]
    assert all(bool((b.abs() <= 6**-0.5).all()) for b in biases)
    assert not torch.equal(biases[0], biases[1])


@pytest.mark.parametrize("initialisation", ["rewound", "random", "preserved"])
@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_run_ends_as_the_other(
    tmp_path: Path, initialisation: str, stop: int
) -> None:
    settings = {"initialisation": initialisation, "rewind_to": 4, "schedule": "linear"}
    whole = run(Loop(), **settings)
    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(Loop(stop_in=stop), checkpoint=file, **settings)
    torch.manual_seed(99)
    again = gpt.lottery(net(), Loop(), 0.9, steps=3, checkpoint=file, **settings)
    assert again.resumed_at == stop - 1
    assert again.rounds == whole.rounds
    expected = whole.module.state_dict()
    assert [*again.module.state_dict()] == [*expected]
    assert all(torch.equal(t, expected[k]) for k, t in again.module.state_dict().items())
    with pytest.raises(UsageError, match="another run"):
        gpt.lottery(net(), Loop(), 0.8, steps=3, checkpoint=file, **settings)


def test_the_module_given_is_not_changed_unless_asked() -> None:
    module = net()
    before = gpt.snapshot(module)
    found = gpt.lottery(module, Loop(), 0.5, steps=1, schedule="constant")
    assert found.module is not module
    assert all(torch.equal(t, before[k]) for k, t in module.state_dict().items())
    assert gpt.lottery(module, Loop(), 0.5, steps=1, inplace=True).module is module


def test_what_cannot_be_is_said() -> None:
    for wrong, said in (
        ({"steps": 0}, "at least one"),
        ({"initialisation": "warm"}, "unknown initialisation"),
        ({"schedule": "slow"}, "unknown schedule"),
        ({"rewind_to": -1}, "rewind_to -1"),
        ({"rewind_to": 13}, "ended after 12 optimizer steps"),
    ):
        with pytest.raises(UsageError, match=said):
            run(Loop(), **wrong)
    with pytest.raises(UsageError, match="out of range"):
        gpt.lottery(net(), Loop(), 1.0, steps=1)
