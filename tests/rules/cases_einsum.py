"""Audit cases of Einsum: weights on either side, batches, ellipses, diagonals, several operands."""

from __future__ import annotations

import numpy as np
from audit_net import Example, Net, Rng, case


@case("bsi,io->bso", "bsi,oi->bso", "io,bsi->bso", "oi,bsi->sbo", "...i,io->...o", "oi,...i->...o")
def projection(rng: Rng, equation: str) -> Example:
    """A weight on either side, stored either way: its rows and its columns."""
    net = Net(rng)
    n, c, w, m = net.size(3, 5), net.size(5, 8), net.size(5, 8), net.size(3, 5)
    x = net.dense(net.input([net.batch, 4, n]), n, c)
    left, right = equation.split("->")[0].split(",")
    weight = left if "o" in left else right
    shape = (c, w) if weight == "io" else (w, c)
    operands = [x, net.weight(*shape, fan_in=c)]
    if weight == left:
        operands.reverse()
    y = net.op("Einsum", *operands, equation=equation)
    return net.example(net.dense(net.op("Tanh", y), w, m), units=[c, w])


@case("bsi,ihd->bshd", "bsi,ihd->bhsd", "bsi,hid->bhsd", "bsi,hdi->bshd")
def heads(rng: Rng, equation: str) -> Example:
    """Projections to heads, attention, and a projection back, all in Einsum."""
    net = Net(rng)
    n, h, d, s, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    x = net.input([net.batch, s, n])
    out = equation.split("->")[1]
    sizes = {"i": n, "h": h, "d": d}
    shape = [sizes[c] for c in equation.split("->")[0].split(",")[1]]
    q, k, v = (
        net.op("Einsum", x, net.weight(*shape, fan_in=n), equation=equation) for _ in range(3)
    )
    keys = out.replace("s", "t")
    scores = net.op("Einsum", q, k, equation=f"{out},{keys}->bhst")
    p = net.op("Softmax", net.op("Mul", scores, net.const(d**-0.5)), axis=-1)
    y = net.op("Einsum", p, v, equation=f"bhst,{keys}->bshd")
    if rng.random() < 0.5:
        y = net.op("Einsum", y, net.weight(h, d, m, fan_in=h * d), equation="bshd,hdm->bsm")
    else:
        y = net.dense(net.reshape(y, 0, 0, h * d), h * d, m)
    # Inside heads: the dims of Q and K, and those of V, each head for itself.
    return net.example(y, units=[h], inner=[h * d, h * d])


@case("hbi,hij->hbj", "bhi,hij->bhj", "bhi,hij->hbj")
def batch_of_matrices(rng: Rng, equation: str) -> Example:
    """One matrix a head: its columns, each head for itself but equally many."""
    net = Net(rng)
    n, h, d, e, m = net.size(3, 5), net.size(2, 3), net.size(3, 5), net.size(3, 5), net.size(3, 5)
    x = net.dense(net.input([net.batch, n]), n, h * d)
    x = net.reshape(x, -1, h, d)
    if equation.startswith("hbi"):
        x = net.op("Transpose", x, perm=[1, 0, 2])
    y = net.op("Einsum", x, net.weight(h, d, e, fan_in=d), equation=equation)
    if equation.endswith("hbj"):
        y = net.op("Transpose", y, perm=[1, 0, 2])
    y = net.dense(net.reshape(y, -1, h * e), h * e, m)
    return net.example(y, units=[h], inner=[h * d, h * e])


@case("bi,ir,ro->bo", "bi,ro,ir->bo", "ir,bi,ro->bo")
def low_rank(rng: Rng, equation: str) -> Example:
    """The inner width of two weights multiplied on the way."""
    net = Net(rng)
    n, c, r, o, m = (net.size(3, 6) for _ in range(5))
    x = net.dense(net.input([net.batch, n]), n, c)
    known = {"bi": x, "ir": net.weight(c, r), "ro": net.weight(r, o)}
    operands = [known[t] for t in equation.split("->")[0].split(",")]
    y = net.op("Einsum", *operands, equation=equation)
    return net.example(net.dense(y, o, m), units=[c, r, o])


@case("bsi,bsi->bsi", "bsi,bsi->bs", "bsi,bti->bst", "bsi,bsj->bsij", "bsi,bti")
def two_activations(rng: Rng, equation: str) -> Example:
    """Products of two dense layers: elementwise, dot, scores, outer, implicit output."""
    net = Net(rng)
    n, c, d, m, s = net.size(3, 5), net.size(4, 6), net.size(4, 6), net.size(3, 5), 4
    x = net.input([net.batch, s, n])
    outer = "j" in equation
    a, b = net.dense(x, n, c), net.dense(x, n, d if outer else c)
    y = net.op("Einsum", a, b, equation=equation)
    if outer:
        y = net.dense(net.reshape(y, 0, 0, c * d), c * d, m)
        # Merged, the two widths would have to leave from one axis: the larger one may.
        return net.example(y, units=[max(c, d)], reason="two independent removals")
    if equation == "bsi,bsi->bsi":
        return net.example(net.dense(y, c, m), units=[c])
    if equation == "bsi,bsi->bs":
        return net.example(net.dense(y, s, m), units=[c])
    return net.example(net.dense(y, s, m), units=[c])


@case("bs,bs->b", "bi,bi")
def same_operand_twice(rng: Rng, equation: str) -> Example:
    """A squared norm: one tensor on both sides."""
    net = Net(rng)
    n, c = net.size(3, 5), net.size(4, 6)
    x = net.dense(net.input([3, n]), n, c)
    y = net.op("Einsum", x, x, equation=equation)
    if equation == "bi,bi":
        return net.example(y, units=[c])
    return net.example(net.op("Sqrt", y), units=[c])


@case("bsi->bis", "bsi->sb", "bsi->is", "...i->...", "b...i->bi...", "bsi")
def one_operand(rng: Rng, equation: str) -> Example:
    """Transposes and sums."""
    net = Net(rng)
    n, c, s, m = net.size(3, 5), net.size(4, 6), 4, net.size(3, 5)
    net.batch = 3
    x = net.dense(net.input([net.batch, s, n]), n, c)
    y = net.op("Einsum", x, equation=equation)
    if equation in ("bsi->bis", "b...i->bi..."):
        return net.example(net.op("MatMul", net.weight(m, c, fan_in=c), y), units=[c])
    if equation == "bsi->is":
        return net.example(net.op("MatMul", net.weight(m, c, fan_in=c), y), units=[c])
    if equation == "bsi":
        return net.example(
            net.op("MatMul", net.weight(m, c, fan_in=c), net.op("Transpose", y, perm=[0, 1, 2])),
            units=[c],
        )
    return net.example(net.dense(y, 3 if equation == "bsi->sb" else s, m), units=[c])


@case("bii->bi", "bii->b", "bii,io->bo", "bsi,ii->bsi")
def diagonal(rng: Rng, equation: str) -> Example:
    """A letter twice in one operand: what it runs over stays."""
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(4, 6), net.size(3, 5)
    reason = "a diagonal is taken of it"
    if equation == "bsi,ii->bsi":
        x = net.dense(net.input([net.batch, 3, n]), n, c)
        y = net.op("Einsum", x, net.vector(c, c), equation=equation)
        return net.example(net.dense(y, c, m), units=[], reason=reason)
    w = net.weight(n, c)
    x = net.op("MatMul", net.input([net.batch, c, n]), w)
    if equation == "bii->bi":
        y = net.dense(net.op("Einsum", x, equation=equation), c, m)
    elif equation == "bii->b":
        y = net.op("Einsum", x, equation=equation)
    else:
        y = net.op("Einsum", x, net.weight(c, m), equation=equation)
    return net.example(y, units=[], reason=reason)


@case("...ij,...jk->...ik", "b...ij,...jk->b...ik", "...ij,...kj->i...k")
def ellipsis_of_two(rng: Rng, equation: str) -> Example:
    """An ellipsis in both operands: one matrix for each position of it."""
    net = Net(rng)
    n, c, w, m = net.size(3, 5), net.size(4, 6), net.size(4, 6), net.size(3, 5)
    lead = [net.batch] if equation.startswith("b") else []
    x = net.dense(net.input([*lead, 3, 2, n]), n, c)
    shape = (3, w, c) if "kj" in equation else (3, c, w)
    y = net.op("Einsum", x, net.weight(*shape, fan_in=c), equation=equation)
    if equation.endswith("i...k"):
        y = net.op("Transpose", y, perm=[1, 0, 2])
    y = net.op("MatMul", y, net.weight(3, w, m, fan_in=w))
    # Inside blocks: equally many columns of each of the three matrices.
    return net.example(y, units=[c], inner=[c, 3 * w])


@case("bhwc,hkc->bhwk", "bhwc,wkc->bhwk")
def relative_positions(rng: Rng, equation: str) -> Example:
    """SAM's decomposed relative positions: queries against a table of keys by row or column."""
    net = Net(rng)
    n, c, h = net.size(3, 5), net.size(4, 6), 3
    x = net.dense(net.input([net.batch, h, h, n]), n, c)
    table = net.const(rng.normal(0, 0.5, (h, 4, c)).astype(np.float32))
    y = net.op("Einsum", x, table, equation=equation)
    return net.example(y, units=[c])


@case("bsi,io->bso")
def broadcast_letter(rng: Rng, equation: str) -> Example:
    """A batch of size 1 beside a larger one."""
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(4, 6), net.size(3, 5)
    x = net.dense(net.input([3, 4, n]), n, c)
    gate = net.dense(net.input([1, 4, n]), n, c)
    y = net.op("Einsum", x, gate, equation="bsi,bsi->bsi")
    y = net.op("Einsum", y, net.weight(c, m), equation=equation)
    return net.example(y, units=[c])
