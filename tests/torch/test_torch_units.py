"""Sums over coupled units against loops over their elements."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from training_nets import images, trained  # noqa: E402

from graphprune.torch.capture import capture  # noqa: E402
from graphprune.torch.subject import TorchSubject  # noqa: E402
from graphprune.torch.units import Slices, unit_index  # noqa: E402


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (2, 0), (1, 2, 0)])
def test_sums_and_spread_are_those_of_the_definition(axes: tuple[int, ...]) -> None:
    """A unit may be told by several axes (a head and a dim in it), in any order; -1 is nobody."""
    shape, size = (4, 3, 5), 6
    generator = torch.Generator().manual_seed(len(axes))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    sizes = [shape[a] for a in axes]
    units = torch.randint(0, size + 1, sizes, generator=generator)  # `size`: no unit
    slices = Slices("w", axes, units.reshape(-1), True)
    expected = torch.zeros(size, dtype=torch.float64)
    per_unit = torch.arange(1.0, size + 1, dtype=torch.float64)
    spread = torch.zeros(shape, dtype=torch.float64)
    for place in itertools.product(*map(range, shape)):
        unit = int(units[tuple(place[a] for a in axes)])
        if unit < size:
            expected[unit] += values[place]
            spread[place] = per_unit[unit]
    torch.testing.assert_close(slices.sums(values, size), expected)
    found = slices.spread(per_unit, values.shape)
    torch.testing.assert_close(found.expand(shape), spread)


def test_readers_are_where_a_unit_ends() -> None:
    net = trained(8, steps=0)
    index = unit_index(net, TorchSubject(capture(net, (images(4, 0)[0],))).analyse())
    readers = {g: {s.name for s in slices if s.reads} for g, slices in index.slices.items()}
    assert readers == {
        "stem": {"blocks.0.expand.weight", "blocks.1.expand.weight", "last.weight"},
        "blocks.0.expand": {"blocks.0.project.weight"},
        "blocks.1.expand": {"blocks.1.project.weight"},
        "last": {"hidden.weight"},
        "hidden": {"out.weight"},
    }


def test_square_weights_of_a_residual_width_count_on_both_sides() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mix, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.first(x))
            return self.out(x + self.mix(x))

    net = Square()
    index = unit_index(net, TorchSubject(capture(net, (torch.randn(2, 4),))).analyse())
    (slices,) = index.slices.values()
    assert {(s.name, s.axes) for s in slices if s.reads} == {
        ("mix.weight", (0,)),
        ("mix.weight", (1,)),
        ("out.weight", (1,)),
    }


def test_frozen_parameters_do_not_count() -> None:
    net = trained(8, steps=0)
    graph = TorchSubject(capture(net, (images(4, 0)[0],))).analyse()
    net.out.requires_grad_(False)
    slices = unit_index(net, graph).slices["hidden"]
    assert {s.name for s in slices} == {"hidden.weight", "hidden.bias"}
    everything = unit_index(net, graph, trained=False).slices["hidden"]
    assert "out.weight" in {s.name for s in everything}
