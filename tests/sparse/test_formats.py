"""The chosen format is the smallest, and every format gives the bits back."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.sparse import densities, patterns
from graphprune.sparse.formats import (
    ORDER,
    DamagedError,
    Tensor,
    cheapest,
    closed_sizes,
    decode,
    encode,
    width,
)

SHAPES = st.one_of(
    st.lists(st.integers(1, 12), min_size=0, max_size=4),
    st.sampled_from([[300, 5], [3, 400], [16, 16], [8, 4, 3, 3], [1, 700], [700], [257, 257]]),
)


@st.composite
def tensors(draw):
    shape = tuple(draw(SHAPES))
    kind = np.dtype(f"<u{draw(st.sampled_from([1, 2, 4, 8]))}")
    seed = draw(st.integers(0, 1000))
    density = draw(st.sampled_from([0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.75, 1]))
    rng = np.random.default_rng(seed)
    bits = rng.integers(1, 2 ** min(63, 8 * kind.itemsize), shape, dtype=np.uint64).astype(kind)
    match draw(st.sampled_from(["random", "rows", "columns", "n:m", "end"])):
        case "random":
            bits[rng.random(shape) >= density] = 0
        case "rows" if shape:
            bits[rng.random(shape[0]) >= density] = 0
        case "columns" if shape:
            bits[..., rng.random(shape[-1]) >= density] = 0
        case "n:m" if shape:
            axis = int(rng.integers(len(shape)))
            m = int(rng.choice([4, 8, 16]))
            if shape[axis] and shape[axis] % m == 0:
                front = np.moveaxis(bits, axis, -1)
                group = front.reshape(-1, m).copy()
                order = rng.random(group.shape).argsort(1)
                group[order >= int(rng.integers(1, m))] = 0
                bits = np.moveaxis(group.reshape(front.shape), -1, axis)
        case "end":
            flat = np.zeros(bits.size, kind)
            flat[-1:] = 1
            bits = flat
    return np.ascontiguousarray(bits).reshape(-1), shape


def every_format(shape):
    axes = [
        f"{n}:{m}@{axis}"
        for axis, d in enumerate(shape)
        for m in patterns.LENGTHS
        if d % m == 0
        for n in range(1, m)
    ]
    plain = [f for f in ORDER if len(shape) > 1 or f not in ("csr", "csc", "coo")]
    return plain, axes


def stored(name, bits, shape):
    return b"".join(s.tobytes() for s in encode(name, Tensor(bits, shape)))


def fits(bits, shape, name):
    n, rest = name.split(":")
    m, axis = map(int, rest.split("@"))
    groups = np.moveaxis((bits != 0).reshape(shape), axis, -1).reshape(-1, m)
    return groups.sum(axis=1).max(initial=0) <= int(n)


@settings(max_examples=150, deadline=None)
@given(tensors())
def test_the_chosen_format_is_the_smallest_by_brute_force(tensor):
    bits, shape = tensor
    name, size, nonzero = cheapest(Tensor(bits, shape))
    assert nonzero == sum(int(b != 0) for b in bits.tolist())
    plain, patterned = every_format(shape)
    # The least N of each M and axis is the smallest of them: values are at least a byte each.
    least = {}
    for f in patterned:
        if bits.size and fits(bits, shape, f):
            least.setdefault(f.partition(":")[2], f)
    candidates = [*plain, *least.values()]
    sizes = {f: len(stored(f, bits, shape)) for f in candidates}
    assert size == min(sizes.values())
    assert len(stored(name, bits, shape)) == size
    for f in candidates:
        back = decode(f, stored(f, bits, shape), shape, bits.itemsize, nonzero)
        assert back.dtype == bits.dtype
        assert back.tobytes() == bits.tobytes(), f


@settings(max_examples=60, deadline=None)
@given(tensors())
def test_closed_sizes_are_what_is_written(tensor):
    bits, shape = tensor
    nonzero = int(np.count_nonzero(bits))
    for name, size in closed_sizes(shape, bits.itemsize, nonzero).items():
        assert len(stored(name, bits, shape)) == size, name


@pytest.mark.parametrize(("n", "m"), [(n, m) for m in (4, 8) for n in range(1, m)])
def test_every_group_of_a_pattern_comes_back(n, m):
    """All sets of at most n places."""
    masks = [g for g in itertools.product((0, 1), repeat=m) if sum(g) <= n]
    bits = (np.array(masks) * np.arange(1, m + 1)).astype("<u2").reshape(-1)
    shape = (len(masks), m)
    data = stored(f"{n}:{m}@1", bits, shape)
    assert len(data) == patterns.size(n, m, len(masks), 2)
    assert math.ceil(len(masks) * math.ceil(math.log2(math.comb(m, n))) / 8) + 2 * n * len(
        masks
    ) == len(data)
    assert (decode(f"{n}:{m}@1", data, shape, 2, int((bits != 0).sum())) == bits).all()


def test_two_of_four_is_smaller_than_its_bitmap():
    bits = np.tile(np.array([1, 0, 2, 0], "<u4"), 1024)
    assert cheapest(Tensor(bits, (64, 64))) == ("2:4@1", 2048 * 4 + 1024 * 3 // 8, 2048)


def test_zero_means_all_bits_zero():
    values = np.array([-0.0, 0.0, np.nan, 1.5, 0, 0, 0, 0] * 20, np.float32)
    values.view("<u4")[2] = 0x7FC12345  # a NaN with a payload
    bits = values.view("<u4")
    name, _, nonzero = cheapest(Tensor(bits, bits.shape))
    assert name != "dense"
    assert nonzero == 60
    back = decode(name, stored(name, bits, bits.shape), bits.shape, 4, nonzero)
    assert back.tobytes() == values.tobytes()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_nothing_takes_nothing(shape):
    empty = np.zeros(0, "<u4")
    assert cheapest(Tensor(empty, shape)) == ("dense", 0, 0)
    assert decode("dense", stored("dense", empty, shape), shape, 4, 0).size == 0


def test_gaps_of_any_length():
    for gap in (0, 253, 254, 255, 256, 510, 65534, 65535, 65536, 131070):
        bits = np.zeros(gap + 2, "<u4")
        bits[-2:] = 7
        for name, w in (("coo-gap8", 1), ("coo-gap16", 2)):
            data = stored(name, bits, bits.shape)
            assert len(data) == 2 * (4 + w) + w * (gap // (256**w - 1))
            assert (decode(name, data, bits.shape, 4, 2) == bits).all()


def test_widths():
    assert [width(s) for s in (1, 256, 257, 65536, 65537, 2**32, 2**32 + 1)] == [
        1, 1, 2, 2, 4, 4, 8,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "itemsize", "index"),
    [((70_000, 70_000), 4, 8), ((70_000, 70_000), 2, 8), ((300, 300), 4, 4), ((200, 200), 1, 2)],
)
def test_break_even_of_coordinates(shape, itemsize, index):
    n = math.prod(shape)
    limit = densities.coordinates(itemsize, index)
    below = math.ceil(limit * n) - 1
    for nonzero, smaller in ((below, True), (below + 1, False)):
        sizes = closed_sizes(shape, itemsize, nonzero)
        assert (sizes["coo"] < sizes["dense"]) == smaller


def test_break_even_at_one_third():
    """fp32, two int32 coordinates (or one int64, as in ONNX's sparse_initializer)."""
    assert densities.coordinates(4, 2 * 4) == Fraction(1, 3)
    assert densities.coordinates(2, 8) == Fraction(1, 5)
    assert densities.coordinates(1, 8) == Fraction(1, 9)
    assert densities.coordinates(4, 1) == Fraction(4, 5)
    assert densities.bitmap(4) == Fraction(31, 32)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_break_even_of_bitmap_and_rows(itemsize):
    shape = (512, 640)
    n = math.prod(shape)
    limits = {
        "bitmap": densities.bitmap(itemsize),
        "csr": densities.rows(itemsize, 2, 2, 640),
        "csc": densities.rows(itemsize, 2, 2, 512),
    }
    for name, limit in limits.items():
        below = math.ceil(limit * n) - 1
        for nonzero, smaller in ((below, True), (below + 1, False)):
            sizes = closed_sizes(shape, itemsize, nonzero)
            assert (sizes[name] < sizes["dense"]) == smaller, name


def test_what_does_not_fit_is_damaged():
    bits = np.zeros(64, "<u4")
    bits[[3, 40]] = 9
    for name in (*ORDER, "1:4@1"):
        data = stored(name, bits, (8, 8))
        for wrong in (data[:-1], data + b"\0", b""):
            with pytest.raises(DamagedError):
                decode(name, wrong, (8, 8), 4, 2)
        with pytest.raises(DamagedError):
            decode(name, data, (8, 8), 4, 3)
    with pytest.raises(DamagedError):  # a place behind the end
        decode("coo-flat", bytes([64, 3]) + bytes(8), (8, 8), 4, 2)
    with pytest.raises(DamagedError):
        decode("nothing", b"", (8, 8), 4, 0)
    with pytest.raises(DamagedError):
        decode("4:4@1", bytes(256), (8, 8), 4, 0)
