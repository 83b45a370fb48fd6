"""Small live modules for the audit of ATen rules: a builder, and what a case says it expects.

A case draws sizes at random, puts the op it is about between layers whose channels may leave, and
states what must be found. Everything is in float64, so that equal means equal. Weights are scaled so
that every tensor has about unit variance: outputs near zero would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Rng = np.random.Generator
F64 = torch.float64


@dataclass(frozen=True, eq=False)
class Example:
    """One module and what must be found in it.

    Attributes:
        module: In evaluation mode, float64.
        inputs: Positional example inputs; the first axis of each is the batch, and free.
        units: Sizes of the groups in the mode in which whole blocks leave, sorted; None: whatever.
        inner: The same in the mode in which channels inside blocks leave.
        reason: Part of a reason that must be given for something that stays; "" for none.
        statistics: Whether statistics are taken over what is kept, in either mode; None: whatever.
        random: The op draws numbers: only sizes are compared.
        one_batch: torch.export binds the batch to that of the inputs.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    units: tuple[int, ...] | None
    inner: tuple[int, ...] | None
    reason: str = ""
    statistics: bool | None = False
    random: bool = False
    one_batch: bool = False

    def expected(self, *, blocks: bool) -> tuple[int, ...] | None:
        return self.units if blocks else self.inner


@dataclass(frozen=True)
class Case:
    """A named maker of examples."""

    name: str
    build: Callable[[Rng], Example]
    family: str


CASES: dict[str, Case] = {}


def case(*parameters: Any) -> Callable[[Callable[..., Example]], Callable[..., Example]]:
    """Register the decorated `(rng)` or, for each of `parameters`, `(rng, parameter)`."""

    def register(make: Callable[..., Example]) -> Callable[..., Example]:
        family = make.__module__.rpartition(".")[2].removeprefix("aten_cases_")
        for parameter in parameters or (None,):
            name = f"{family}.{make.__name__}"
            if parameter is None:
                build: Callable[[Rng], Example] = make
            else:
                name = f"{name}[{_label(parameter)}]"

                def build(rng: Rng, given: Any = parameter) -> Example:
                    return make(rng, given)

            assert name not in CASES, f"two cases are called {name}"
            CASES[name] = Case(name, build, family)
        return make

    return register


def _label(parameter: Any) -> str:
    if isinstance(parameter, tuple):
        return "-".join(_label(p) for p in parameter)
    return str(getattr(parameter, "__name__", parameter))


class Value(nn.Module):
    """A parameter or buffer; call it to read it."""

    def __init__(self, value: Tensor, *, buffer: bool = False) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("value", value)
        else:
            self.value = nn.Parameter(value)

    def forward(self) -> Tensor:
        return self.value


class Net(nn.Module):
    """A module under construction: layers are made by methods, `example` says what they do."""

    def __init__(self, rng: Rng) -> None:
        super().__init__()
        self.rng = rng
        self.parts = nn.ModuleList()
        self.run: Callable[..., Any] = lambda *inputs: inputs
        self.generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        self.batch = self.size(2, 3)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(*inputs)

    # -- drawing --------------------------------------------------------------------------------

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def size(self, low: int, high: int) -> int:
        """A random size, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=F64)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        share = torch.rand(shape, generator=self.generator, dtype=F64)
        return low + (high - low) * share

    # -- parts ----------------------------------------------------------------------------------

    def add(self, part: nn.Module) -> Any:
        """Any module, its weights redrawn so that signals live."""
        for parameter in part.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.data = self.normal(*parameter.shape) * fan_in**-0.5
        part.to(F64)
        self.parts.append(part)
        return part

    def dense(self, inputs: int, outputs: int, *, bias: bool | None = None) -> nn.Linear:
        return self.add(nn.Linear(inputs, outputs, bias=self.chance(0.7) if bias is None else bias))

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        spatial: int = 2,
        groups: int = 1,
        bias: bool | None = None,
        **given: Any,
    ) -> nn.Module:
        """A convolution that keeps positions (odd kernel, padded)."""
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial - 1]
        given.setdefault("padding", kernel // 2)
        use = self.chance(0.7) if bias is None else bias
        return self.add(kind(inputs, outputs, kernel, groups=groups, bias=use, **given))

    def vector(self, *shape: int, low: float = 0.4, high: float = 1.2) -> Value:
        """A parameter of numbers that are not near zero."""
        value = Value(self.uniform(*shape, low=low, high=high))
        self.parts.append(value)
        return value

    def weight(self, *shape: int, fan_in: int | None = None) -> Value:
        value = Value(self.normal(*shape) * (fan_in or shape[-1]) ** -0.5)
        self.parts.append(value)
        return value

    def buffer(self, value: Tensor) -> Value:
        found = Value(value, buffer=True)
        self.parts.append(found)
        return found

    # -- closing --------------------------------------------------------------------------------

    def example(
        self,
        run: Callable[..., Any],
        *inputs: Tensor,
        units: Sequence[int] | int | None = (),
        inner: Sequence[int] | int | str | None = "same",
        **expect: Any,
    ) -> Example:
        """Close the module; `inner` is `units` where it is not given."""
        self.run = run
        made = _sizes(units)
        within = made if isinstance(inner, str) else _sizes(inner)
        return Example(self.eval(), inputs, made, within, **expect)


def _sizes(given: Sequence[int] | int | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    return (given,) if isinstance(given, int) else tuple(sorted(given))


Maker = Callable[[Net, int, int, int], Callable[[Tensor], Tensor]]
"""(net, channels, channel axis, rank) -> what is done between producer and consumer."""


def around(
    rng: Rng,
    make: Maker,
    *,
    last: bool | None = None,
    spatial: int | None = None,
    channels: int | None = None,
    **expect: Any,
) -> Example:
    """A producer, `make`, a consumer that reads the same channels at the same axis.

    Dense layers over the last axis (rank 2 to 4) or convolutions (1-d or 2-d), by chance unless
    `last` says which. One group of all channels is expected if `expect` says nothing else.
    """
    net = Net(rng)
    n, c, m = net.size(3, 6), channels or net.size(5, 9), net.size(3, 6)
    expect = {"units": c, **expect}
    if last is None:
        last = net.chance()
    if last:
        middle = [net.size(2, 4) for _ in range(net.size(0, 2))]
        first, then = net.dense(n, c), net.dense(c, m)
        between = make(net, c, 1 + len(middle), 2 + len(middle))
        x = net.normal(net.batch, *middle, n)
    else:
        spatial = spatial or net.size(1, 2)
        places = [net.size(4, 6) for _ in range(spatial)]
        first = net.conv(n, c, net.pick(1, 3), spatial=spatial)
        then = net.conv(c, m, net.pick(1, 3), spatial=spatial)
        between = make(net, c, 1, 2 + spatial)
        x = net.normal(net.batch, n, *places)
    return net.example(lambda x: then(between(first(x))), x, **expect)
