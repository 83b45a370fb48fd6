"""Reading a node across opsets: attributes, and operands that were attributes in older opsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array | None]


class TooLarge(Exception):
    """A result would exceed the limit of elements."""


def op_names(text: str) -> frozenset[str]:
    """Op types from a text with blanks between them."""
    return frozenset(text.split())


VIEWS = op_names("Identity Reshape Flatten Squeeze Unsqueeze Transpose")
"""The same numbers in another shape or order."""

ELEMENTWISE = op_names(
    "Add Sub Mul Div Pow Mod And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual Where Max "
    "Min Mean Sum PRelu BitShift BitwiseAnd BitwiseOr BitwiseXor BiasGelu Relu LeakyRelu Elu Selu "
    "Celu Gelu Sigmoid HardSigmoid HardSwish Mish Swish Softplus Softsign ThresholdedRelu Tanh "
    "Erf Exp Log Sqrt Reciprocal Neg Abs Sign Floor Ceil Round Not BitwiseNot Sin Cos Tan Asin "
    "Acos Atan Sinh Cosh Asinh Acosh Atanh Cast IsNaN IsInf Shrink FastGelu QuickGelu"
)
"""Each place of the result is made of the same place of the operands, after broadcasting."""


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Python value of an attribute (tuples for lists), `default` where it is not given."""
    attr = node.attributes.get(name)
    if attr is None or attr.ref_attr_name is not None:
        return default
    return attr.value


def at(inputs: Arrays, index: int) -> Array | None:
    """Input `index`, None where it is unknown or not given."""
    return inputs[index] if index < len(inputs) else None


def need(inputs: Arrays, index: int) -> Array:
    """Input `index`, which the op requires. Raises ValueError where it is missing."""
    array = at(inputs, index)
    if array is None:
        raise ValueError("a required input is missing")
    return array


def axes_of(node: ir.Node, inputs: Arrays, index: int) -> list[int] | None:
    """`axes`, an input in newer opsets and an attribute in older ones; None where not given."""
    array = at(inputs, index)
    if array is not None:
        return [int(a) for a in array.reshape(-1)]
    axes = attribute(node, "axes")
    return None if axes is None else [int(a) for a in axes]


def fits(shape: Sequence[int], limit: int) -> tuple[int, ...]:
    """`shape` as plain ints. Raises TooLarge where it has more than `limit` elements."""
    count = 1
    for size in shape:
        count *= int(size)
    if count > limit:
        raise TooLarge
    return tuple(int(s) for s in shape)


def constant_of(node: ir.Node, limit: int | None = None) -> Array | None:
    """What a Constant node holds; None for strings and for more than `limit` elements."""
    attrs = node.attributes
    if "value" in attrs:
        tensor = attrs["value"].value
        if tensor.dtype == ir.DataType.STRING or (limit is not None and tensor.size > limit):
            return None
        return np.asarray(tensor.numpy())
    for name, dtype in (
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_float", np.float32),
        ("value_floats", np.float32),
    ):
        if name in attrs:
            return np.array(attrs[name].value, dtype=dtype)
    return None


def reshape_dims(
    dims: Sequence[int], target: Sequence[int], allowzero: bool = False
) -> tuple[int, ...]:
    """What Reshape makes of `dims`. Raises ValueError where the sizes do not fit."""
    result = [
        dims[i] if size == 0 and not allowzero and i < len(dims) else int(size)
        for i, size in enumerate(target)
    ]
    total = 1
    for size in dims:
        total *= size
    known = 1
    for size in result:
        known *= 1 if size == -1 else size
    if result.count(-1) == 1:
        if known == 0 or total % known:
            raise ValueError(f"cannot reshape {tuple(dims)} to {tuple(target)}")
        result[result.index(-1)] = total // known
    elif known != total or any(size < 0 for size in result):
        raise ValueError(f"cannot reshape {tuple(dims)} to {tuple(target)}")
    return tuple(int(s) for s in result)


def slices_of(node: ir.Node, inputs: Arrays, rank: int) -> tuple[slice, ...]:
    """The Python slices of a Slice node (inputs since opset 10, attributes before)."""
    if len(inputs) > 1:
        starts = [int(i) for i in need(inputs, 1).reshape(-1)]
        ends = [int(i) for i in need(inputs, 2).reshape(-1)]
        axes = axes_of(node, inputs, 3)
        step_array = at(inputs, 4)
    else:
        starts, ends = list(attribute(node, "starts")), list(attribute(node, "ends"))
        axes, step_array = axes_of(node, inputs, 99), None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if step_array is None else [int(i) for i in step_array.reshape(-1)]
    result = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # With a negative step an end before the first element means "down to it", which Python
        # spells None; ONNX spells it as any sufficiently negative number.
        result[axis] = slice(start, end, step)
    return tuple(result)


def split_sizes(node: ir.Node, inputs: Arrays, length: int, outputs: int) -> list[int]:
    """Lengths of a Split's pieces: given, or as equal as possible with a shorter last piece."""
    sizes = at(inputs, 1)
    given = attribute(node, "split") if sizes is None else sizes.reshape(-1)
    if given is not None:
        return [int(s) for s in given]
    piece = -(-length // outputs)
    return [max(0, min(piece, length - piece * i)) for i in range(outputs)]
