"""Random inputs that a model accepts and that keep its signals alive.

What an integer input means is read from its consumers, not from its name alone: an index into a
table of V rows lies in [0, V); a mask is ones with a few zeros at the end; positions count up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError
from graphprune.onnx.bindings import input_dims, real_inputs
from graphprune.onnx.operands import op_names
from graphprune.onnx.shapes import Shapes

Array = np.ndarray[Any, Any]

ATTEMPTS = 4
"""How many values `random_feeds` has for a free scalar such as a sampling rate."""

_SCALARS = (1, 16000, 8000, 0)
_RATE = re.compile(r"^sr$|sample_?rate|sampling_?rate", re.IGNORECASE)
_MASK = re.compile(r"mask", re.IGNORECASE)
_POSITION = re.compile(r"position|pos_ids", re.IGNORECASE)
_LENGTH = re.compile(r"len(gth)?s?$|seq_?len", re.IGNORECASE)

# Ops through which an index stays an index (of the same table) on the way to its Gather.
_TRANSPARENT = op_names(
    "Cast CastLike Clip Concat Expand Flatten Gather Identity Max Min Reshape Slice Split Squeeze "
    "Tile Transpose Unsqueeze Where"
)
# Ops that take a mask: everything that turns it into weights or a bias.
_MASK_OPS = op_names(
    "And Cast Equal Expand Greater Identity Less Mul Not Or ReduceSum Reshape Slice Sub Unsqueeze "
    "Where CumSum"
)


def random_feeds(
    model: ir.Model,
    shapes_or_binding: Shapes | Mapping[str, int],
    seed: int,
    kind: str = "random",
    attempt: int = 0,
) -> dict[str, Array]:
    """Inputs for `model`, the same for the same arguments.

    Args:
        model: Its inputs and their consumers are read.
        shapes_or_binding: Sizes of the dynamic dimensions.
        seed: Of the random generator.
        kind: `random`: floats from N(0, 1); `positive`: floats from [0, 1).
        attempt: Which value (0 to ATTEMPTS - 1) free integer scalars get; see `has_free_scalars`.

    Returns:
        Input name -> array, for every input without an initializer.

    Raises:
        UnsupportedModelError: Strings, sequences, or an input without a shape.
        UsageError: A dynamic dimension without a size.
    """
    binding = (
        shapes_or_binding.binding if isinstance(shapes_or_binding, Shapes) else shapes_or_binding
    )
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    inputs = real_inputs(model)
    longest = max((max(input_dims(v, binding) or (1,), default=1) for v in inputs), default=1)
    for value in inputs:
        _refuse(value)
        dims = input_dims(value, binding)
        if dims is None:
            raise UnsupportedModelError(
                f"input '{value.name}' has no shape in the file: export the model with one"
            )
        assert value.dtype is not None
        assert value.name is not None
        dtype = value.dtype
        if dtype.is_floating_point():
            array = _floats(value, dims, generator, kind)
        elif dtype == ir.DataType.BOOL:
            array = generator.random(dims) < 0.9
            array.reshape(-1)[:1] = True
        else:
            array = _integers(value, dims, generator, longest, attempt)
        feeds[value.name] = np.asarray(array).astype(dtype.numpy())
    return feeds


def has_free_scalars(model: ir.Model) -> bool:
    """An integer input of at most one element whose meaning the graph does not tell."""
    return any(_is_free_scalar(v) for v in real_inputs(model))


def _is_free_scalar(value: ir.Value) -> bool:
    dims = None if value.shape is None else list(value.shape)
    integer = value.dtype is not None and value.dtype.is_integer()
    if dims is None or not integer or len(dims) > 1 or (dims and dims[0] != 1):
        return False
    return index_range(value).rows is None


def _refuse(value: ir.Value) -> None:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        raise UnsupportedModelError(
            f"input '{value.name}' is no tensor ({type(value.type).__name__}): not supported"
        )
    if value.dtype is None:
        raise UnsupportedModelError(f"input '{value.name}' has no element type in the file")
    if value.dtype == ir.DataType.STRING:
        raise UnsupportedModelError(
            f"input '{value.name}' takes strings: prune the numeric part of the model on its own"
        )


def _floats(
    value: ir.Value, dims: tuple[int, ...], generator: np.random.Generator, kind: str
) -> Array:
    if _MASK.search(value.name or "") and len(dims) >= 2:
        return _mask(dims, generator)
    if kind == "positive":
        return generator.random(dims)
    return generator.standard_normal(dims)


def _integers(
    value: ir.Value,
    dims: tuple[int, ...],
    generator: np.random.Generator,
    longest: int,
    attempt: int,
) -> Array:
    assert value.dtype is not None
    name = value.name or ""
    found = index_range(value)
    if _is_free_scalar(value):
        order = (_SCALARS[1], *_SCALARS[:1], *_SCALARS[2:]) if _RATE.search(name) else _SCALARS
        return np.full(dims, order[attempt % ATTEMPTS])
    if found.rows is not None:
        low, high = found.low, max(found.rows, found.low + 1)
        if _POSITION.search(name) and dims:
            return np.broadcast_to(low + np.arange(dims[-1]) % (high - low), dims)
        return generator.integers(low, high, dims)
    if _POSITION.search(name) and dims:
        return np.broadcast_to(np.arange(dims[-1]), dims)
    if _MASK.search(name) or (found.ops and found.ops <= _MASK_OPS and len(dims) == 2):
        return _mask(dims, generator)
    if len(dims) == 1 and _LENGTH.search(name):
        return np.full(dims, longest)
    if value.dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        low, high = (0, 256) if value.dtype == ir.DataType.UINT8 else (-128, 128)
        return generator.integers(low, high, dims)
    return generator.integers(0, 256 if len(dims) > 2 else 2, dims)  # pixels, or flags


def _mask(dims: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Ones, with up to a quarter of zeros at the end of each row; the first row is whole."""
    length = dims[-1] if dims else 1
    rows = int(np.prod(dims[:-1], dtype=np.int64))
    kept = length - generator.integers(0, length // 4 + 1, rows)
    kept[:1] = length
    return (np.arange(length) < kept[:, None]).astype(np.int64).reshape(dims)


@dataclass
class _IndexRange:
    """What the consumers of an integer input say of it.

    Attributes:
        rows: Upper bound (exclusive): rows of the smallest table it indexes; None if it indexes
            none.
        low: Lower bound, from offsets that are subtracted on the way.
        ops: Op types that read it directly.
    """

    rows: int | None = None
    low: int = 0
    ops: set[str] = field(default_factory=set)


def index_range(value: ir.Value) -> _IndexRange:
    """Follow an integer input forward to the tables it indexes."""
    found = _IndexRange(ops={use.node.op_type for use in value.uses()})
    seen: set[ir.Value] = set()
    stack: list[tuple[ir.Value, int]] = [(value, 0)]
    while stack:
        current, offset = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, position in current.uses():
            rows = _table_rows(node, position)
            if rows is not None:
                limit = rows - offset
                found.rows = limit if found.rows is None else min(found.rows, limit)
                found.low = max(found.low, -offset)
            elif node.op_type in _TRANSPARENT and (position == 0 or node.op_type != "Gather"):
                stack.extend((o, offset) for o in node.outputs)
            elif node.op_type in ("Add", "Sub"):
                shift = _scalar(node.inputs[1 - position])
                if shift is not None and (node.op_type == "Add" or position == 0):
                    shift = shift if node.op_type == "Add" else -shift
                    stack.extend((o, offset + shift) for o in node.outputs)
    return found


def _table_rows(node: ir.Node, position: int) -> int | None:
    """Rows of the table that input `position` of `node` indexes, or None."""
    if node.op_type in ("Gather", "GatherElements") and position == 1:
        attr = node.attributes.get("axis")
        return _length(node.inputs[0], 0 if attr is None else int(attr.value))
    if node.op_type == "GatherBlockQuantized" and position == 1:
        return _length(node.inputs[0], 0)
    if node.op_type == "EmbedLayerNormalization" and position in (0, 1, 8):
        table = {0: 2, 1: 4, 8: 3}[position]
        return _length(node.inputs[table], 0) if table < len(node.inputs) else None
    if node.op_type == "OneHot" and position == 0:
        return _scalar(node.inputs[1])
    return None


def _length(value: ir.Value | None, axis: int) -> int | None:
    """Length of an axis where the file states it as a number."""
    if value is None:
        return None
    shape = value.const_value.shape if value.const_value is not None else value.shape
    producer = value.producer()
    if shape is None and producer is not None and producer.op_type == "Constant":
        attr = producer.attributes.get("value")
        shape = None if attr is None else attr.value.shape
    if shape is None and producer is not None and producer.op_type in ("Identity", "Cast"):
        return _length(producer.inputs[0], axis)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def _scalar(value: ir.Value | None) -> int | None:
    """A constant of one element, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None or tensor.size != 1:
        return None
    return int(tensor.numpy().reshape(-1)[0])
