"""Whole layers that can leave: a value that may stand for a later one.

A *block* is a residual sum `w = v + f(v)`: where it leaves, `v` stands for `w`. What follows the sum
without any weight of its own kind of work and made `v` too (the norm of a post-norm transformer, the
ReLU of a ResNet) belongs to the block: `v` then stands for what it makes of `w`. Blocks that read one
another form a chain, and the shortest pattern of blocks that a chain repeats is a *layer*: attention
and MLP of a transformer, one residual block of a ResNet.

Nothing here knows a front end: it hands over the steps of its graph in order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import networkx as nx


@dataclass(frozen=True)
class Step:
    """One node, as far as finding layers needs to know it.

    Attributes:
        op: What it does; equal ops with other settings differ.
        inputs: Activations that it reads, in order (no weights, no shape arithmetic).
        outputs: What it makes.
        adds: Whether its first output is the sum of two activations (perhaps with a norm behind it).
        works: Whether it multiplies and adds: a contraction, with or without a weight.
        owner: The name of its weight, which tells where it stands; empty where it has none.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    adds: bool = False
    works: bool = False
    owner: str = ""


@dataclass(frozen=True)
class Layer:
    """What can leave as a whole.

    Attributes:
        name: From its weights (`encoder.layer.3`), else from `output`; unique in the model.
        source: The value that comes in, and stands for `output` once the layer has left.
        output: The value that goes out, of the same shape and type.
        blocks: Residual blocks that it consists of.
    """

    name: str
    source: str
    output: str
    blocks: int = 1


@dataclass(frozen=True)
class _Block:
    source: str
    total: str
    tail: tuple[str, ...]
    """What follows `total` without work, nearest first."""
    output: str
    works: tuple[str, ...]
    """Ops of the steps inside that work, sorted."""
    owners: tuple[str, ...]
    inside: int
    """The steps inside, as bits."""


def find_layers(steps: Sequence[Step], kinds: Mapping[str, Hashable]) -> tuple[Layer, ...]:
    """Layers of a graph, in order; they do not overlap.

    Args:
        steps: All nodes, in topological order.
        kinds: Value -> its shape (at all bindings that are known) and type. A value stands for
            another only where these are equal; values that are not in it are left.

    Returns:
        Layers, each of which can leave alone or with any others.
    """
    graph = _Graph(steps, kinds)
    blocks = _innermost([b for step in steps if step.adds and (b := graph.block(step))])
    chains = _chains(blocks)
    patterns = {_pattern(chain) for chain in chains}
    known = {p for p in patterns if p}
    layers = []
    for chain in chains:
        works = tuple(b.works for b in chain)
        length = len(_pattern(chain)) or (len(chain) if works in known else 1)
        for i in range(0, len(chain) - length + 1, length):
            layers.append(_layer(chain[i : i + length]))
    layers.sort(key=lambda layer: graph.made[layer.output])
    return _unique(layers)


class _Graph:
    def __init__(self, steps: Sequence[Step], kinds: Mapping[str, Hashable]) -> None:
        self.steps = steps
        self.kinds = kinds
        self.made = {v: i for i, step in enumerate(steps) for v in step.outputs}
        self.uses: Counter[str] = Counter(v for step in steps for v in step.inputs)
        self.before: list[int] = []  # for each step, all steps it depends on and itself, as bits
        for i, step in enumerate(steps):
            bits = 1 << i
            for value in step.inputs:
                if value in self.made:
                    bits |= self.before[self.made[value]]
            self.before.append(bits)
        self.behind = self._after_all()

    def _after_all(self) -> dict[int, int]:
        """Step -> the first step that everything it makes goes through (its post-dominator)."""
        graph: nx.DiGraph[int] = nx.DiGraph()
        end = len(self.steps)
        graph.add_nodes_from(range(end + 1))
        for i, step in enumerate(self.steps):
            graph.add_edges_from((i, self.made[v]) for v in step.inputs if v in self.made)
        for i in range(end):
            if not graph.in_degree(i):
                graph.add_edge(end, i)
        found = nx.immediate_dominators(graph, end)
        return {i: d for i, d in found.items() if i != end and d is not None and d != end}

    def reads(self, i: int, source: str) -> bool:
        """Whether step `i` depends on a value."""
        if source in self.made:
            return bool(self.before[i] >> self.made[source] & 1)
        return any(source in self.steps[j].inputs for j in _bits(self.before[i]))

    def block(self, step: Step) -> _Block | None:
        """The block that a sum closes; None where no operand is what the others come from."""
        total = step.outputs[0]
        terms = self._terms(step)
        for source in terms:
            others = [t for t in terms if t != source]
            if self.kinds.get(source) is None or self.kinds.get(source) != self.kinds.get(total):
                continue
            if others and all(t in self.made and self.reads(self.made[t], source) for t in others):
                return self._closed(source, total)
        return None

    def _terms(self, step: Step) -> list[str]:
        """Operands of a sum, those of sums that only it reads in their place."""
        found = []
        for value in step.inputs:
            i = self.made.get(value)
            if i is not None and self.steps[i].adds and self.uses[value] == 1:
                found += self._terms(self.steps[i])
            else:
                found.append(value)
        return found

    def _closed(self, source: str, total: str) -> _Block | None:
        inside = self._between(source, total)
        steps = [self.steps[i] for i in _bits(inside)]
        works = [s for s in steps if s.works]
        if not works:
            return None
        tail = self._tail(total)
        output = total
        for value in tail:
            if self._alike(value, source, total):
                output = value
        owners = tuple(s.owner for s in steps if s.owner)
        ops = tuple(sorted(s.op for s in works))
        return _Block(source, total, tail, output, ops, owners, inside)

    def _between(self, source: str, output: str) -> int:
        """Steps that depend on `source` and that `output` depends on, as bits."""
        candidates = _bits(self.before[self.made[output]])
        start = self.made.get(source)
        found = 0
        for i in candidates:
            if i != start and self.reads(i, source):
                found |= 1 << i
        return found

    def _tail(self, total: str) -> tuple[str, ...]:
        """Values of the same kind behind a sum through which all of it goes, up to the next work."""
        found: list[str] = []
        here = self.made[total]
        while (there := self.behind.get(here)) is not None:
            value = self.steps[there].outputs[0]
            between = self._between(total, value)
            if any(self.steps[i].works or self.steps[i].adds for i in _bits(between)):
                break
            if self.kinds.get(value) == self.kinds.get(total):
                found.append(value)
            here = there
        return tuple(found)

    def _alike(self, value: str, other: str, leaf: str) -> bool:
        """Whether `other` is made of something as `value` is made of `leaf`."""
        bound: dict[str, str] = {leaf: ""}

        def same(a: str, b: str) -> bool:
            if a == leaf:
                bound[leaf] = bound[leaf] or b
                return bound[leaf] == b
            if a not in self.made or b not in self.made or not self.reads(self.made[a], leaf):
                return a == b
            one, two = self.steps[self.made[a]], self.steps[self.made[b]]
            places = one.outputs.index(a) == two.outputs.index(b)
            fits = one.op == two.op and len(one.inputs) == len(two.inputs) and places
            return fits and all(map(same, one.inputs, two.inputs))

        return same(value, other)


def _bits(number: int) -> list[int]:
    found = []
    while number:
        low = number & -number
        found.append(low.bit_length() - 1)
        number ^= low
    return found


def _innermost(blocks: Sequence[_Block]) -> list[_Block]:
    """Blocks without those around others (a skip over a whole network)."""
    return [
        a
        for a in blocks
        if not any(
            b is not a and b.inside & ~a.inside == 0 and b.inside != a.inside for b in blocks
        )
    ]


def _chains(blocks: Sequence[_Block]) -> list[list[_Block]]:
    """Blocks that read one another, each in one chain; the sums' order is that of the graph."""
    chains: list[list[_Block]] = []
    ends: dict[str, list[_Block]] = {}
    for block in blocks:
        chain = ends.pop(block.source, None)
        if chain is None:
            chain = []
            chains.append(chain)
        elif chain[-1].output != block.source:
            chain[-1] = replace(chain[-1], output=block.source)
        chain.append(block)
        for value in (block.total, *block.tail):
            ends[value] = chain
    return chains


def _pattern(chain: Sequence[_Block]) -> tuple[tuple[str, ...], ...]:
    """The shortest sequence of blocks that a chain repeats at least twice; () where it does not."""
    works = [b.works for b in chain]
    for length in range(1, len(works) // 2 + 1):
        if all(w == works[i % length] for i, w in enumerate(works)):
            return tuple(works[:length])
    return ()


def _layer(blocks: Sequence[_Block]) -> Layer:
    name = _common([_parts(o) for b in blocks for o in b.owners])
    return Layer(name, blocks[0].source, blocks[-1].output, len(blocks))


def _common(owners: Sequence[Sequence[str]]) -> str:
    """What all names begin with, part by part."""
    places = zip(*owners, strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, places))


def _parts(name: str) -> list[str]:
    return [p for p in re.split(r"[./]", name) if p]


def _unique(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Names that tell layers apart: by what goes out of them where weights do not."""
    counts = Counter(layer.name for layer in layers)
    return tuple(
        layer
        if layer.name and counts[layer.name] == 1
        else replace(layer, name=f"{layer.name or 'layer'}@{layer.output}")
        for layer in layers
    )
