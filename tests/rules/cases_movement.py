"""Audit cases of random chains of movement ops: whatever is found prunable must be right.

A tensor with labelled channels (or heads of channels) goes through a random chain of Reshape,
Transpose, Slice, Split, Concat, Gather, Pad, Tile, elementwise ops, layers and sums; a dense layer
reads the result. Nothing is expected of what can be pruned; what is pruned is compared.
"""

from __future__ import annotations

import numpy as np
from audit_net import Example, Net, Rng, case


class Chain:
    """A tensor and its shape on the way through random ops; axis 0 is the batch where `batch`."""

    def __init__(self, net: Net, name: str, shape: tuple[int, ...], *, batch: bool) -> None:
        self.net, self.name, self.shape, self.first = net, name, shape, int(batch)
        self.remembered: list[tuple[str, tuple[int, ...]]] = []

    def axis(self, least: int = 1) -> int | None:
        """A random axis of at least `least` elements (not the batch)."""
        fitting = [a for a in range(self.first, len(self.shape)) if self.shape[a] >= least]
        return int(self.net.rng.choice(fitting)) if fitting else None

    def step(self) -> None:
        names = [n for n in dir(self) if n.startswith("do_")]
        getattr(self, str(self.net.rng.choice(names)))()

    def put(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, tuple(int(n) for n in shape)

    # -- movement -------------------------------------------------------------------------------

    def do_reshape(self) -> None:
        """Merge all axes and split them anew."""
        rng, total = self.net.rng, int(np.prod(self.shape[self.first :]))
        sizes: list[int] = []
        while total > 1 and len(sizes) < 3:
            divisors = [d for d in range(2, total + 1) if total % d == 0]
            sizes.append(int(rng.choice(divisors)))
            total //= sizes[-1]
        if total > 1:
            sizes.append(total)
        rng.shuffle(sizes)
        if rng.random() < 0.2:
            sizes.insert(int(rng.integers(len(sizes) + 1)), 1)
        head = (0,) * self.first
        self.put(self.net.reshape(self.name, *head, *sizes), (*self.shape[: self.first], *sizes))

    def do_merge(self) -> None:
        """Merge two neighbouring axes."""
        if len(self.shape) - self.first < 2:
            return
        a = int(self.net.rng.integers(self.first, len(self.shape) - 1))
        s = self.shape
        shape = (*s[:a], s[a] * s[a + 1], *s[a + 2 :])
        self.put(self.net.reshape(self.name, *(0,) * self.first, *shape[self.first :]), shape)

    def do_split_axis(self) -> None:
        """One axis becomes two."""
        fitting = [
            (a, d)
            for a in range(self.first, len(self.shape))
            for d in range(2, self.shape[a])
            if self.shape[a] % d == 0
        ]
        if not fitting or len(self.shape) > 5:
            return
        a, d = fitting[int(self.net.rng.integers(len(fitting)))]
        s = self.shape
        shape = (*s[:a], d, s[a] // d, *s[a + 1 :])
        self.put(self.net.reshape(self.name, *(0,) * self.first, *shape[self.first :]), shape)

    def do_transpose(self) -> None:
        order = [
            *range(self.first),
            *(self.first + self.net.rng.permutation(len(self.shape) - self.first)),
        ]
        order = [int(a) for a in order]
        y = self.net.op("Transpose", self.name, perm=order)
        self.put(y, tuple(self.shape[a] for a in order))

    def do_slice(self) -> None:
        rng, a = self.net.rng, self.axis(3)
        if a is None:
            return
        n = self.shape[a]
        start, stop = sorted(int(i) for i in rng.choice(n + 1, 2, replace=False))
        step = int(rng.choice([1, 1, 1, 2, 3, -1, -2]))
        if step < 0:
            start, stop = stop - 1, start - 1
        size = len(range(start, stop, step))
        if size < 2:
            return
        if stop == -1:
            stop = -n - 1
        net = self.net
        y = net.op("Slice", self.name, net.ints(start), net.ints(stop), net.ints(a), net.ints(step))
        self.put(y, (*self.shape[:a], size, *self.shape[a + 1 :]))

    def do_split(self) -> None:
        """Pieces in another order, some of them changed."""
        a = self.axis(4)
        if a is None:
            return
        net, n = self.net, self.shape[a]
        cut = int(net.rng.integers(1, n))
        parts = net.ops("Split", self.name, net.ints(cut, n - cut), count=2, axis=a)
        parts[0] = net.op("Tanh", parts[0])
        if net.rng.random() < 0.5:
            parts.reverse()
        self.put(net.op("Concat", *parts, axis=a), self.shape)

    def do_halves(self) -> None:
        """Two halves meet (a gated layer)."""
        fitting = [
            a
            for a in range(self.first, len(self.shape))
            if self.shape[a] % 2 == 0 and self.shape[a] > 3
        ]
        if not fitting:
            return
        net, a = self.net, int(self.net.rng.choice(fitting))
        half = self.shape[a] // 2
        x, y = net.ops("Split", self.name, net.ints(half, half), count=2, axis=a)
        y = net.op("Mul", x, net.op("Sigmoid", y))
        self.put(y, (*self.shape[:a], half, *self.shape[a + 1 :]))

    def do_gather(self) -> None:
        a = self.axis(3)
        if a is None:
            return
        rng, n = self.net.rng, self.shape[a]
        kind = rng.random()
        if kind < 0.4:
            indices = rng.permutation(n)
        elif kind < 0.7:
            indices = np.sort(rng.permutation(n)[: n - 1])
        else:
            indices = np.repeat(np.arange(n), 2) if n < 7 else rng.integers(0, n, 4)
        y = self.net.op("Gather", self.name, self.net.const(indices.astype(np.int64)), axis=a)
        self.put(y, (*self.shape[:a], indices.size, *self.shape[a + 1 :]))

    def do_concat(self) -> None:
        """Beside another version of itself."""
        a = self.axis(2)
        if a is None or self.shape[a] > 12:
            return
        net = self.net
        y = net.op("Concat", self.name, net.op("Neg", self.name), axis=a)
        self.put(y, (*self.shape[:a], 2 * self.shape[a], *self.shape[a + 1 :]))

    def do_pad(self) -> None:
        a = self.axis(2)
        if a is None:
            return
        net, rank = self.net, len(self.shape)
        before, after = (int(i) for i in net.rng.integers(0, 3, 2))
        amounts = [0] * (2 * rank)
        amounts[a], amounts[rank + a] = before, after
        y = net.op("Pad", self.name, net.ints(*amounts))
        self.put(y, (*self.shape[:a], self.shape[a] + before + after, *self.shape[a + 1 :]))

    def do_tile(self) -> None:
        a = self.axis(1)
        if a is None or self.shape[a] > 8:
            return
        repeats = [2 if i == a else 1 for i in range(len(self.shape))]
        y = self.net.op("Tile", self.name, self.net.ints(*repeats))
        self.put(y, (*self.shape[:a], 2 * self.shape[a], *self.shape[a + 1 :]))

    # -- meeting --------------------------------------------------------------------------------

    def do_bias(self) -> None:
        """A weight over a random subset of the axes."""
        net = self.net
        shape = [
            n if a >= self.first and net.rng.random() < 0.6 else 1 for a, n in enumerate(self.shape)
        ]
        self.put(net.op(net.pick("Add", "Mul"), self.name, net.vector(*shape)), self.shape)

    def do_activation(self) -> None:
        self.put(self.net.op(self.net.pick("LeakyRelu", "Tanh", "Softplus"), self.name), self.shape)

    def do_reversed_self(self) -> None:
        """It meets itself turned round along an axis."""
        a = self.axis(2)
        if a is None or self.net.rng.random() < 0.6:
            return
        net = self.net
        turned = net.op(
            "Slice", self.name, net.ints(-1), net.ints(-(2**62)), net.ints(a), net.ints(-1)
        )
        self.put(net.op("Add", self.name, turned), self.shape)

    def do_gate(self) -> None:
        """A sum over one axis gates the tensor."""
        a = self.axis(2)
        if a is None:
            return
        net = self.net
        total = net.op("ReduceSum", self.name, net.ints(a), keepdims=1)
        self.put(net.op("Mul", self.name, net.op("Sigmoid", total)), self.shape)

    def do_reduce(self) -> None:
        a = self.axis(2)
        if a is None or len(self.shape) - self.first < 3:
            return
        net, keep = self.net, int(self.net.rng.integers(2))
        y = net.op("ReduceSum", self.name, net.ints(a), keepdims=keep)
        self.put(y, (*self.shape[:a], *([1] if keep else []), *self.shape[a + 1 :]))

    def do_dense(self) -> None:
        """A dense layer over the last axis."""
        n = self.shape[-1]
        if len(self.shape) - self.first < 2 or n > 24:
            return
        m = int(self.net.rng.integers(2, 7))
        self.put(self.net.dense(self.name, n, m), (*self.shape[:-1], m))

    def do_softmax(self) -> None:
        a = self.axis(2)
        if a is not None and self.net.rng.random() < 0.4:
            self.put(self.net.op("Softmax", self.name, axis=a), self.shape)

    def do_with_matmul(self) -> None:
        """A product with itself: [.., m, k] x [.., k, m]."""
        if len(self.shape) - self.first < 2 or self.net.rng.random() < 0.6:
            return
        net, rank = self.net, len(self.shape)
        order = [*range(rank - 2), rank - 1, rank - 2]
        other = net.op("Transpose", net.op("Tanh", self.name), perm=order)
        y = net.op("Mul", net.op("MatMul", self.name, other), net.const(0.3))
        self.put(y, (*self.shape[:-1], self.shape[-2]))

    def do_remember(self) -> None:
        """Another branch starts here."""
        self.remembered.append((self.name, self.shape))

    def do_join(self) -> None:
        """Meet or stand beside a tensor from before."""
        net, rank = self.net, len(self.shape)
        for name, shape in self.remembered:
            if len(shape) != rank or name == self.name:
                continue
            differ = [a for a in range(rank) if shape[a] != self.shape[a]]
            if not differ or all(1 in (shape[a], self.shape[a]) for a in differ):
                y = net.op(net.pick("Add", "Mul", "Max"), name, self.name)
                self.put(y, tuple(max(a, b) for a, b in zip(shape, self.shape, strict=True)))
                return
            if len(differ) == 1 and differ[0] >= self.first:
                a = differ[0]
                y = net.op("Concat", name, self.name, axis=a)
                self.put(y, (*shape[:a], shape[a] + self.shape[a], *shape[a + 1 :]))
                return

    def do_conv(self) -> None:
        """A convolution over the last axes, grouped by chance."""
        if self.first != 1 or len(self.shape) not in (3, 4) or self.shape[1] > 16:
            return
        net, c = self.net, self.shape[1]
        g = int(net.rng.choice([d for d in range(1, c + 1) if c % d == 0]))
        m = g * int(net.rng.integers(1, 3))
        y = net.conv(self.name, c, m, spatial=len(self.shape) - 2, group=g)
        self.put(y, (self.shape[0], m, *self.shape[2:]))

    def do_norm(self) -> None:
        """A norm over the last axis, or over groups of channels."""
        net, n = self.net, self.shape[-1]
        if n < 2 or net.rng.random() < 0.5:
            return
        y = net.op("LayerNormalization", self.name, net.vector(n), net.vector(n), epsilon=1e-2)
        self.put(y, self.shape)

    def do_expand(self) -> None:
        """An axis of one element is spread out."""
        net = self.net
        if len(self.shape) > 4 or int(np.prod(self.shape)) > 100:
            return
        a = int(net.rng.integers(self.first, len(self.shape) + 1))
        shape = (*self.shape[:a], 1, *self.shape[a:])
        target = (*(1,) * a, 2, *(1,) * (len(self.shape) - a))
        y = net.op("Expand", net.op("Unsqueeze", self.name, net.ints(a)), net.ints(*target))
        self.put(y, (*shape[:a], 2, *shape[a + 1 :]))

    def do_running(self) -> None:
        a = self.axis(2)
        if a is not None:
            self.put(self.net.op("CumSum", self.name, self.net.const(a)), self.shape)

    def do_largest(self) -> None:
        a = self.axis(2)
        if a is None or self.net.rng.random() < 0.5:
            return
        y = self.net.op("ReduceMax", self.name, self.net.ints(a), keepdims=1)
        self.put(self.net.op("Sub", self.name, y), self.shape)

    def do_depth_to_space(self) -> None:
        if self.first != 1 or len(self.shape) != 4 or self.shape[1] % 4:
            return
        n, c, h, w = self.shape
        mode = self.net.pick("DCR", "CRD")
        y = self.net.op("DepthToSpace", self.name, blocksize=2, mode=mode)
        self.put(y, (n, c // 4, 2 * h, 2 * w))

    def do_space_to_depth(self) -> None:
        if self.first != 1 or len(self.shape) != 4 or self.shape[2] % 2 or self.shape[3] % 2:
            return
        n, c, h, w = self.shape
        y = self.net.op("SpaceToDepth", self.name, blocksize=2)
        self.put(y, (n, 4 * c, h // 2, w // 2))

    def do_pool(self) -> None:
        if self.first != 1 or len(self.shape) not in (3, 4) or min(self.shape[2:]) < 2:
            return
        spatial = len(self.shape) - 2
        y = self.net.op("MaxPool", self.name, kernel_shape=[2] * spatial)
        self.put(y, (*self.shape[:2], *(n - 1 for n in self.shape[2:])))


@case("batch", "free", "heads")
def chain(rng: Rng, how: str) -> Example:
    net = Net(rng)
    n = 3
    sizes = [net.size(2, 4) for _ in range(net.size(0, 2))]
    if how == "heads":
        h, d = net.size(2, 4), net.size(2, 4)
        c = h * d
    else:
        c = net.size(4, 12)
    lead = net.batch if how != "free" else net.size(2, 3)
    x = net.dense(net.input([lead, *sizes, n]), n, c)
    shape = (2 if isinstance(lead, str) else lead, *sizes, c)
    walk = Chain(net, x, shape, batch=how != "free")
    if how == "heads":
        walk.put(net.reshape(x, *(0,) * len(shape[:-1]), h, d), (*shape[:-1], h, d))
        order = [*range(1), *(1 + rng.permutation(len(walk.shape) - 1))]
        y = net.op("Transpose", walk.name, perm=[int(a) for a in order])
        walk.put(y, tuple(walk.shape[int(a)] for a in order))
    for _ in range(net.size(2, 9)):
        if int(np.prod(walk.shape)) < 600:
            walk.step()
    rest = int(np.prod(walk.shape[1:])) if walk.first else int(np.prod(walk.shape))
    y = net.reshape(walk.name, *((0, rest) if walk.first else (1, rest)))
    return net.example(
        net.op("MatMul", y, net.weight(rest, 4)), units=None, statistics=None, tolerance=1e-4
    )
