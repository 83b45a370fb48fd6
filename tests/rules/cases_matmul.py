"""Audit cases of matrix products."""

from __future__ import annotations

from audit_net import MS, Example, Net, Rng, case


@case(2, 3, 4)
def dense(rng: Rng, rank: int) -> Example:
    net = Net(rng)
    n, c, d, m = 3, net.size(4, 8), net.size(4, 8), 4
    x = net.input([net.batch, *[net.size(2, 4) for _ in range(rank - 2)], n])
    h = net.op("Relu", net.dense(x, n, c))
    h = net.op("Tanh", net.dense(h, c, d))
    return net.example(net.dense(h, d, m), units=(c, d))


@case()
def left(rng: Rng) -> Example:
    """W @ x: channels in the rows."""
    net = Net(rng)
    n, c, d, m, t = 3, net.size(4, 8), net.size(4, 8), 4, net.size(2, 4)
    h = net.input([net.batch, n, t])
    for i, o in ((n, c), (c, d)):
        h = net.op("Relu", net.op("MatMul", net.weight(o, i, fan_in=i), h))
    return net.example(net.op("MatMul", net.weight(m, d, fan_in=d), h), units=(c, d))


@case(1, 3)
def experts(rng: Rng, rank: int) -> Example:
    """Batched weights [E, n, c]: each expert has channels of its own, equally many leave.

    As blocks, the experts themselves would leave; here they are an axis of the output.
    """
    net = Net(rng)
    e, n, c, m, t = net.size(2, 4), 3, net.size(4, 6), 4, 3
    lead = [net.batch, e] if rank == 3 else [e]
    h = net.op("Relu", net.op("MatMul", net.input([*lead, t, n]), net.weight(e, n, c, fan_in=n)))
    y = net.op("MatMul", h, net.weight(e, c, m, fan_in=c))
    return net.example(y, units=(), inner=e * c)


@case()
def experts_shared_input(rng: Rng) -> Example:
    """All experts read one tensor and are summed: experts are blocks, their channels are inside."""
    net = Net(rng)
    e, n, c, m, t = net.size(3, 4), 3, net.size(4, 6), 4, 3
    x = net.op("Unsqueeze", net.input([net.batch, t, n]), net.ints(1))
    h = net.op("Relu", net.op("MatMul", x, net.weight(e, n, c, fan_in=n)))
    y = net.op("MatMul", h, net.weight(e, c, m, fan_in=c))
    y = net.op("ReduceSum", y, net.ints(1), keepdims=0)
    return net.example(net.dense(y, m, 3), units=None, inner=None)


@case()
def both_activations(rng: Rng) -> Example:
    """A product of two activations: the contracted channels of both leave together."""
    net = Net(rng)
    n, c, d, t = 3, net.size(4, 8), net.size(4, 8), net.size(3, 4)
    x = net.input([net.batch, t, n])
    a, b, v = net.dense(x, n, c), net.dense(x, n, c), net.dense(x, n, d)
    scores = net.op("MatMul", a, net.op("Transpose", b, perm=[0, 2, 1]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.example(net.dense(mixed, d, 4), units=(c, d))


@case("relu", "softmax")
def heads(rng: Rng, how: str) -> Example:
    """Multi-head attention by hand: whole heads leave, or dims inside q k and inside v."""
    net = Net(rng)
    n, h, d, t = 3, net.size(2, 4), net.size(3, 4), net.size(3, 4)
    x = net.input([net.batch, t, n])

    def split(y: str) -> str:
        return net.op("Transpose", net.reshape(y, 0, 0, h, d), perm=[0, 2, 1, 3])

    q, k, v = (split(net.dense(x, n, h * d, bias=True)) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Mul", scores, net.const(d**-0.5))
    weights = net.op("Softmax", scores, axis=-1) if how == "softmax" else net.op("Relu", scores)
    mixed = net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = net.dense(net.reshape(mixed, 0, 0, h * d), h * d, 4)
    return net.example(y, units=h, inner=(h * d, h * d))


@case("x-vector", "vector-x")
def vectors(rng: Rng, how: str) -> Example:
    """A 1-d operand is contracted away."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.op("Relu", net.dense(net.input([net.batch, 4, n]), n, c))
    if how == "x-vector":
        y = net.op("MatMul", h, net.vector(c))
    else:
        y = net.op("MatMul", net.vector(c), net.op("Transpose", h, perm=[0, 2, 1]))
    return net.example(net.dense(y, 4, 3), units=c)


@case(
    *[(ta, tb, c) for ta in (0, 1) for tb in (0, 1) for c in ("", "n", "1n", "mn", "m1", "scalar")]
)
def gemm(rng: Rng, ta: int, tb: int, c: str) -> Example:
    """All layouts and shapes of the added term; the rows are the batch, or channels."""
    net = Net(rng)
    rows, n, k, m = net.size(2, 4), 3, net.size(5, 8), net.size(6, 9)
    h = net.op("Relu", net.dense(net.input([rows, n]), n, k))
    if ta:
        h = net.op("Transpose", h, perm=[1, 0])
    w = net.weight(*((m, k) if tb else (k, m)), fan_in=k)
    shapes = {"n": (m,), "1n": (1, m), "mn": (rows, m), "m1": (rows, 1), "scalar": ()}
    extra = [net.vector(*shapes[c])] if c else []
    attributes = {"alpha": 0.8, "beta": 1.3} if rng.random() < 0.5 else {}
    y = net.op("Gemm", h, w, *extra, transA=ta, transB=tb, **attributes)
    return net.example(net.dense(net.op("Tanh", y), m, 3), units=(k, m))


@case()
def gemm_rows(rng: Rng) -> Example:
    """W @ x as a Gemm, its bias along the rows."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    x = net.input([n, t])
    h = net.op("Gemm", net.weight(c, n, fan_in=n), x, net.vector(c, 1))
    y = net.op("Gemm", net.weight(4, c, fan_in=c), net.op("Relu", h), net.vector(4, 1))
    return net.example(y, units=c)


@case()
def gemm_added_branch(rng: Rng) -> Example:
    """The added term is another branch: the channels of both are joined."""
    net = Net(rng)
    rows, n, c = net.size(2, 4), 3, net.size(5, 8)
    x = net.input([rows, n])
    y = net.op("Gemm", x, net.weight(n, c), net.op("Relu", net.dense(x, n, c)))
    return net.example(net.dense(y, c, 4), units=c)


@case((0, 0), (0, 1), (1, 0), (1, 1))
def fused_matmul(rng: Rng, ta: int, tb: int) -> Example:
    net = Net(rng)
    b, t, n, k, m = 2, net.size(2, 4), 3, net.size(5, 8), net.size(6, 9)
    h = net.op("Relu", net.dense(net.input([b, t, n]), n, k))
    if ta:
        h = net.op("Transpose", h, perm=[0, 2, 1])
    w = net.weight(*((m, k) if tb else (k, m)), fan_in=k)
    y = net.op("FusedMatMul", h, w, domain=MS, transA=ta, transB=tb, alpha=0.7)
    return net.example(net.dense(net.op("Tanh", y), m, 3), units=(k, m))


@case()
def fused_matmul_batches(rng: Rng) -> Example:
    """Transposed batches are a boundary."""
    net = Net(rng)
    b, t, n, k = 2, 3, 3, net.size(5, 8)
    h = net.dense(net.input([b, t, n]), n, k)
    h = net.op("Transpose", h, perm=[1, 0, 2])
    y = net.op("FusedMatMul", h, net.weight(2, k, 4, fan_in=k), domain=MS, transBatchA=1)
    return net.example(y, units=(), reason="transposed batches")


@case("Relu", "LeakyRelu")
def fused_gemm(rng: Rng, activation: str) -> Example:
    net = Net(rng)
    rows, n, k, m = net.size(2, 4), 3, net.size(5, 8), net.size(6, 9)
    h = net.dense(net.input([rows, n]), n, k)
    y = net.op(
        "FusedGemm",
        h,
        net.weight(m, k, fan_in=k),
        net.vector(m),
        domain=MS,
        transB=1,
        activation=activation,
        **({"activation_alpha": 0.2} if activation == "LeakyRelu" else {}),
    )
    return net.example(net.dense(y, m, 3), units=(k, m))


@case()
def tied(rng: Rng) -> Example:
    """A table that is looked up and, transposed, the head: one width for both uses."""
    net = Net(rng)
    v, c = net.size(8, 10), net.size(5, 8)
    table = net.const(rng.normal(0, 1, (v, c)).astype("float32"))
    ids = net.input(
        [net.batch, 3], dtype=7, feed=lambda r, shape: r.integers(0, v, shape).astype("int64")
    )
    h = net.op("Relu", net.op("Gather", table, ids))
    y = net.op("MatMul", h, net.op("Transpose", table, perm=[1, 0]))
    return net.example(y, units=c)
