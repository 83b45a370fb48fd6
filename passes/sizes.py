"""Writing sizes: an operand that holds sizes gets new contents, computed ones included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError
from graphprune.onnx.names import FreshNames
from graphprune.rules.context import node_name

__all__ = ["SizeError", "SizeWriter"]

Values = Mapping[ir.Value, np.ndarray]


class SizeError(UnsupportedModelError):
    """A size that cannot be followed; `node` holds it."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class SizeWriter:
    """Gives one input of a node the contents it must have at every binding.

    Args:
        names: Names that are free in the model.
        before: Contents of size tensors in the original, at each binding.
        after: The same with the plan's dims: what they become when nothing is done.
    """

    def __init__(
        self, names: FreshNames, before: Sequence[Values], after: Sequence[Values]
    ) -> None:
        self._names = names
        self._before = before
        self._after = after
        self._patched: set[ir.Node] = set()
        self._constants: dict[tuple[ir.Graph, bytes, str], ir.Value] = {}

    def write(
        self, node: ir.Node, i: int, contents: Sequence[np.ndarray], *, alone: bool = False
    ) -> None:
        """Make input `i` of `node` hold `contents[b]` at binding b.

        Args:
            node: The reader.
            i: Which input.
            contents: What it must hold, at each binding.
            alone: All readers of the value want the same: it may be changed in its place.

        Raises SizeError where a dynamic size would have to change in a way that no
        constant factor describes.
        """
        value = node.inputs[i] if i < len(node.inputs) else None
        if value is None:
            node.resize_inputs(max(i + 1, len(node.inputs)))
            node.replace_input_with(i, self._constant(node, contents[0]))
            return
        present = [a.get(value) for a in self._after]
        if all(
            p is not None and np.array_equal(p, c) for p, c in zip(present, contents, strict=True)
        ):
            return
        dtype = self._before[0][value].dtype if value in self._before[0] else contents[0].dtype
        wanted = [np.asarray(c, dtype) for c in contents]
        if all(np.array_equal(w, wanted[0]) for w in wanted):
            node.replace_input_with(i, self._constant(node, wanted[0]))
            return
        if any(p is None for p in present):
            raise SizeError(
                node_name(node),
                f"size operand {i} depends on a dynamic dimension in a way that cannot be followed",
            )
        found = [p for p in present if p is not None]
        producer = value.producer()
        if producer is None or producer.op_type != "Concat" or wanted[0].ndim != 1:
            node.replace_input_with(i, self._scaled(node, value, wanted, found))
        elif not alone:
            pieces = self._pieces(node, producer, wanted, found)
            copy = ir.node("Concat", pieces, {"axis": producer.attributes["axis"].as_int()})
            node.replace_input_with(i, self._insert(node, copy, wanted[0]))
        elif producer not in self._patched:
            self._patched.add(producer)
            for k, piece in enumerate(self._pieces(producer, producer, wanted, found)):
                producer.replace_input_with(k, piece)

    def _pieces(
        self,
        node: ir.Node,
        producer: ir.Node,
        wanted: Sequence[np.ndarray],
        found: Sequence[np.ndarray],
    ) -> list[ir.Value]:
        """Inputs of a Concat of sizes of which only those that must change are other ones."""
        pieces: list[ir.Value] = []
        start = 0
        for piece in producer.inputs:
            assert piece is not None
            size = int(self._before[0][piece].size)
            want = [w[start : start + size] for w in wanted]
            have = [f[start : start + size] for f in found]
            start += size
            if all(np.array_equal(w, h) for w, h in zip(want, have, strict=True)):
                pieces.append(piece)
            elif all(np.array_equal(w, want[0]) for w in want):
                pieces.append(self._constant(node, want[0]))
            else:
                pieces.append(self._scaled(node, piece, want, have))
        return pieces

    def _scaled(
        self,
        node: ir.Node,
        value: ir.Value,
        wanted: Sequence[np.ndarray],
        found: Sequence[np.ndarray],
    ) -> ir.Value:
        """value * new // old, where that is right at every binding."""
        first_want, first_have = wanted[0].astype(np.int64), found[0].astype(np.int64)
        divisor = np.gcd(first_want, first_have)
        divisor = np.where(divisor == 0, 1, divisor)
        times, over = first_want // divisor, first_have // divisor
        over = np.where(over == 0, 1, over)
        for want, have in zip(wanted, found, strict=True):
            scaled = have.astype(np.int64) * times
            # Exact at every binding: a quotient that is right by rounding would be wrong at others.
            if have.shape != times.shape or not np.array_equal(
                scaled, want.astype(np.int64) * over
            ):
                raise SizeError(
                    node_name(node),
                    "a size that depends on a dynamic dimension would have to change in a way that "
                    "no factor describes",
                )
        dtype = wanted[0].dtype
        result = value
        if (times != 1).any():
            product = ir.node("Mul", [result, self._constant(node, times.astype(dtype))])
            result = self._insert(node, product, wanted[0])
        if (over != 1).any():
            quotient = ir.node("Div", [result, self._constant(node, over.astype(dtype))])
            result = self._insert(node, quotient, wanted[0])
        return result

    def _insert(self, before: ir.Node, new: ir.Node, like: np.ndarray) -> ir.Value:
        graph = before.graph
        assert isinstance(graph, ir.Graph)
        out = new.outputs[0]
        out.dtype = ir.DataType.from_numpy(like.dtype)
        out.shape = ir.Shape(like.shape)
        out.name = self._names.near(f"{node_name(before)}_{new.op_type.lower()}_kept")
        new.name = out.name
        graph.insert_before(before, new)
        return out

    def _constant(self, node: ir.Node, array: np.ndarray) -> ir.Value:
        """An initializer of the node's graph that holds `array`; equal ones are shared."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        key = (graph, array.tobytes(), f"{array.dtype}{array.shape}")
        if key not in self._constants:
            name = self._names.near(f"{node_name(node)}_size_kept")
            tensor = ir.Tensor(np.array(array, order="C"), name=name)  # a scalar stays one
            value = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]
