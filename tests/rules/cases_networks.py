"""Audit cases of random small networks: what stands beside what in real ones, in random order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from audit_net import Example, Net, Rng, case


class Images:
    """A feature map [N, C, S, S] on its way through random blocks of a CNN."""

    def __init__(self, net: Net, x: str, channels: int, size: int) -> None:
        self.net, self.x, self.c, self.s = net, x, channels, size
        self.earlier: list[tuple[str, int, int]] = []

    def width(self) -> int:
        return int(self.net.rng.choice([4, 6, 8, 12]))

    def act(self, x: str) -> str:
        op = self.net.pick("LeakyRelu", "Tanh", "HardSwish", "Softplus")
        return self.net.op(op, x)

    def norm(self, x: str, c: int) -> str:
        net = self.net
        kind = int(net.rng.integers(5))
        affine = [net.vector(c, low=0.6, high=1.4), net.vector(c)]
        if kind == 0:
            statistics = [net.vector(c), net.vector(c, low=0.5, high=1.5)]
            return net.op("BatchNormalization", x, *affine, *statistics)
        if kind == 1:
            return net.op("InstanceNormalization", x, *affine, epsilon=1e-2)
        if kind == 2:
            groups = int(net.rng.choice([g for g in range(1, c + 1) if c % g == 0]))
            return net.op("GroupNormalization", x, *affine, num_groups=groups, epsilon=1e-2)
        if kind == 3:  # LayerNorm of channels, as ConvNeXt has it
            y = net.op("Transpose", x, perm=[0, 2, 3, 1])
            y = net.op("LayerNormalization", y, *affine, epsilon=1e-2)
            return net.op("Transpose", y, perm=[0, 3, 1, 2])
        return x

    def block_conv(self) -> None:
        d = self.width()
        y = self.net.conv(self.x, self.c, d, self.net.pick(1, 3))
        self.x, self.c = self.act(self.norm(y, d)), d

    def block_grouped(self) -> None:
        net, c = self.net, self.c
        groups = int(net.rng.choice([g for g in range(1, c + 1) if c % g == 0]))
        d = groups * int(net.rng.integers(1, 4))
        self.x, self.c = self.act(net.conv(self.x, c, d, 3, group=groups)), d

    def block_residual(self) -> None:
        d, c = self.width(), self.c
        y = self.act(self.norm(self.net.conv(self.x, c, d, 3), d))
        y = self.net.conv(y, d, d, 3, group=d) if self.net.rng.random() < 0.4 else y
        self.x = self.act(self.net.op("Add", self.x, self.net.conv(y, d, c)))

    def block_excite(self) -> None:
        net, c = self.net, self.c
        y = net.op("ReduceMean", self.x, net.ints(2, 3))
        y = self.act(net.conv(y, c, 5))
        self.x = net.op("Mul", self.x, net.op("Sigmoid", net.conv(y, 5, c)))

    def block_dense(self) -> None:
        d = self.width()
        y = self.act(self.net.conv(self.x, self.c, d, 3))
        self.x, self.c = self.net.op("Concat", self.x, y, axis=1), self.c + d

    def block_shuffle(self) -> None:
        net, c, s = self.net, self.c, self.s
        groups = [g for g in range(2, c) if c % g == 0]
        if groups:
            g = int(net.rng.choice(groups))
            y = net.op("Transpose", net.reshape(self.x, 0, g, c // g, s, s), perm=[0, 2, 1, 3, 4])
            self.x = net.reshape(y, 0, c, s, s)

    def block_split(self) -> None:
        """Half of the channels take another way (ShuffleNet, YOLO)."""
        net, c = self.net, self.c
        if c % 2:
            return
        a, b = net.ops("Split", self.x, net.ints(c // 2, c // 2), count=2, axis=1)
        b = self.act(net.conv(b, c // 2, c // 2, 3))
        self.x = net.op("Concat", *net.pick((a, b), (b, a)), axis=1)

    def block_pixels(self) -> None:
        net = self.net
        if self.c % 4 == 0 and self.s < 8:
            self.x = net.op("DepthToSpace", self.x, blocksize=2, mode=net.pick("DCR", "CRD"))
            self.c, self.s = self.c // 4, self.s * 2
        elif self.s % 2 == 0 and self.c < 5:
            self.x = net.op("SpaceToDepth", self.x, blocksize=2)
            self.c, self.s = self.c * 4, self.s // 2

    def block_pool(self) -> None:
        if self.s % 2 == 0 and self.s > 2:
            op = self.net.pick("MaxPool", "AveragePool")
            self.x = self.net.op(op, self.x, kernel_shape=[2, 2], strides=[2, 2])
            self.s //= 2

    def block_up(self) -> None:
        net, c = self.net, self.c
        if self.s > 4:
            return
        if net.rng.random() < 0.5:
            self.x = net.op("Resize", self.x, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
        else:
            groups = int(net.rng.choice([g for g in (1, 2, c) if c % g == 0]))
            d = groups * int(net.rng.integers(1, 4))
            w = net.weight(c, d // groups, 2, 2, fan_in=c // groups)
            self.x, self.c = net.op("ConvTranspose", self.x, w, strides=[2, 2], group=groups), d
        self.s *= 2

    def block_remember(self) -> None:
        self.earlier.append((self.x, self.c, self.s))

    def block_skip(self) -> None:
        """A U-Net's skip, or a long residual."""
        for x, c, s in self.earlier:
            if s != self.s or x == self.x:
                continue
            if c == self.c and self.net.rng.random() < 0.5:
                self.x = self.net.op("Add", x, self.x)
            elif c + self.c < 30:
                self.x, self.c = self.net.op("Concat", x, self.x, axis=1), c + self.c
            return

    def block_moments(self) -> None:
        """Attention over channels: their products with one another."""
        net, s = self.net, self.s
        flat = net.reshape(self.x, 0, 0, s * s)
        scores = net.op("MatMul", flat, net.op("Transpose", flat, perm=[0, 2, 1]))
        scores = net.op("Tanh", net.op("Mul", scores, net.const(0.1)))
        self.x = net.reshape(net.op("MatMul", scores, flat), 0, 0, s, s)


@case()
def cnn(rng: Rng) -> Example:
    net = Net(rng, 21)
    c = net.pick(4, 6, 8)
    walk = Images(net, net.conv(net.input([net.batch, 3, 4, 4]), 3, c, 3), c, 4)
    blocks = [n for n in dir(walk) if n.startswith("block_")]
    for _ in range(net.size(2, 7)):
        if walk.c <= 24:
            getattr(walk, str(rng.choice(blocks)))()
    if rng.random() < 0.5:
        y = net.op("Flatten", net.op("GlobalAveragePool", walk.x))
        y = net.dense(y, walk.c, 4)
    elif rng.random() < 0.5:
        size = walk.c * walk.s**2
        y = net.op("MatMul", net.op("Flatten", walk.x), net.weight(size, 4))
    else:
        y = net.conv(walk.x, walk.c, 4)
    return net.example(y, units=None, statistics=None, tolerance=2e-4)


def split_heads(net: Net, x: str, heads: int, d: int) -> str:
    return net.op("Transpose", net.reshape(x, 0, 0, heads, d), perm=[0, 2, 1, 3])


def turned(net: Net, x: str, t: int, d: int) -> str:
    """Rotary embedding, in halves or interleaved."""
    cos, sin = net.vector(t, d), net.vector(t, d)
    if net.rng.random() < 0.5:
        a = net.op("Slice", x, net.ints(0), net.ints(d // 2), net.ints(3))
        b = net.op("Slice", x, net.ints(d // 2), net.ints(2**62), net.ints(3))
        other = net.op("Concat", net.op("Neg", b), a, axis=-1)
    else:
        a = net.op("Slice", x, net.ints(0), net.ints(2**62), net.ints(3), net.ints(2))
        b = net.op("Slice", x, net.ints(1), net.ints(2**62), net.ints(3), net.ints(2))
        pair = [net.op("Unsqueeze", y, net.ints(4)) for y in (net.op("Neg", b), a)]
        other = net.op("Reshape", net.op("Concat", *pair, axis=-1), net.ints(0, 0, t, d))
    return net.op("Add", net.op("Mul", x, cos), net.op("Mul", other, sin))


def attention(net: Net, x: str, c: int, t: int) -> str:
    """Grouped queries by chance, packed or separate projections, rotary or not."""
    kv, repeat, d = net.size(1, 3), net.pick(1, 1, 2), net.pick(2, 4)
    h = kv * repeat
    if repeat == 1 and net.rng.random() < 0.5:
        packed = net.dense(x, c, 3 * h * d, bias=True)
        if net.rng.random() < 0.5:
            parts = net.ops("Split", packed, net.ints(*[h * d] * 3), count=3, axis=-1)
            q, k, v = (split_heads(net, p, h, d) for p in parts)
        else:
            y = net.op("Transpose", net.reshape(packed, 0, 0, 3, h, d), perm=[2, 0, 3, 1, 4])
            q, k, v = (net.op("Gather", y, net.const(i), axis=0) for i in range(3))
    else:
        q = split_heads(net, net.dense(x, c, h * d, bias=True), h, d)
        k, v = (split_heads(net, net.dense(x, c, kv * d, bias=True), kv, d) for _ in range(2))
    if net.rng.random() < 0.5:
        q, k = turned(net, q, t, d), turned(net, k, t, d)
    if net.rng.random() < 0.3:  # norms of q and k
        q, k = (net.op("RMSNormalization", y, net.vector(d, low=0.6, high=1.4)) for y in (q, k))
    if repeat > 1:
        k, v = (
            net.reshape(
                net.op("Expand", net.op("Unsqueeze", y, net.ints(2)), net.ints(1, 1, repeat, 1, 1)),
                0,
                h,
                t,
                d,
            )
            for y in (k, v)
        )
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Mul", scores, net.const(d**-0.5))
    if net.rng.random() < 0.5:
        mask = np.triu(np.full((t, t), -1e4, np.float32), 1).reshape(1, 1, t, t)
        scores = net.op("Add", scores, net.const(mask))
    if net.rng.random() < 0.3:  # a bias for each head
        scores = net.op("Add", scores, net.vector(1, h, t, t))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, h * d)
    return net.dense(y, h * d, c)


def feed_forward(net: Net, x: str, c: int) -> str:
    d = net.size(5, 9)
    if net.rng.random() < 0.5:
        y = net.op("Gelu", net.dense(x, c, d))
    elif net.rng.random() < 0.5:
        y = net.op("Mul", net.op("Sigmoid", net.dense(x, c, d)), net.dense(x, c, d))
    else:
        a, b = net.ops("Split", net.dense(x, c, 2 * d), count=2, axis=-1, num_outputs=2)
        y = net.op("Mul", a, net.op("Tanh", b))
    return net.dense(y, d, c)


def layer_norm(net: Net, x: str, c: int) -> str:
    if net.rng.random() < 0.5:
        return net.op("RMSNormalization", x, net.vector(c, low=0.6, high=1.4))
    return net.op("LayerNormalization", x, net.vector(c, low=0.6, high=1.4), net.vector(c))


@case()
def transformer(rng: Rng) -> Example:
    net = Net(rng, 23)
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = net.dense(net.input([net.batch, t, n]), n, c)
    if rng.random() < 0.4:  # a class token, and positions
        first = net.op("Slice", h, net.ints(0), net.ints(1), net.ints(1))
        token = net.op("Expand", net.vector(1, 1, c), net.op("Shape", first))
        h, t = net.op("Concat", token, h, axis=1), t + 1
        h = net.op("Add", h, net.vector(1, t, c))
    before = rng.random() < 0.5
    parts: list[Callable[[str], str]] = [
        lambda y: attention(net, y, c, t),
        lambda y: feed_forward(net, y, c),
    ]
    for part in parts[: net.size(1, 2)]:
        if before:
            h = net.op("Add", h, part(layer_norm(net, h, c)))
        else:
            h = layer_norm(net, net.op("Add", h, part(h)), c)
    if rng.random() < 0.5:
        h = net.op("Gather", h, net.const(0), axis=1)
    return net.example(net.dense(h, c, 4), units=None, statistics=None, tolerance=2e-4)
