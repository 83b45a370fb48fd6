"""Rows of token embeddings and outputs of tied heads cut to the tokens that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.names import FreshNames

__all__ = ["TrimVocabularyPass", "VocabularyUse"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class VocabularyUse:
    """Where the tokens of a vocabulary are numbered in a model.

    Attributes:
        rows: Tokens of the model; may be a few more than the tokenizer's.
        inputs: Graph inputs that hold token ids.
        tables: Initializers that are looked up by token id.
        axes: Every initializer that has an axis over tokens (tables, heads, biases) -> that axis.
        values: Activations whose last axis is over tokens.
        outputs: Graph outputs among them.
        echoes: Graph outputs that are token ids as they came in.
        constants: Single token ids that the graph compares with: (node, input).
        notes: What is not as before, for the user.
    """

    rows: int
    inputs: tuple[str, ...]
    tables: tuple[str, ...]
    axes: Mapping[str, int]
    values: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    echoes: tuple[str, ...] = ()
    constants: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


class TrimVocabularyPass(ir.passes.InPlacePass):
    """Keep some tokens; the i-th of them has id i afterwards.

    Args:
        use: Where tokens are numbered (`graphprune.vocabulary.find`).
        kept: Their old ids, int64, increasing.
    """

    def __init__(self, use: VocabularyUse, kept: Array) -> None:
        self.use = use
        self.kept = np.asarray(kept, np.int64)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Shapes of what is over tokens follow; no node changes."""
        count = self.kept.size
        for name, axis in self.use.axes.items():
            value = model.graph.initializers[name]
            tensor = value.const_value
            assert tensor is not None
            array = np.ascontiguousarray(np.take(tensor.numpy(), self.kept, axis=axis))
            value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=name)
            value.shape = ir.Shape(array.shape)
        values = set(self.use.values)
        nodes = {}
        for node in model.graph:
            nodes[node.name or node.outputs[0].name or ""] = node
            for value in node.outputs:
                if value.name in values and value.shape is not None and value.shape[-1] is not None:
                    dims = list(value.shape)
                    dims[-1] = count if isinstance(dims[-1], int) else dims[-1]
                    value.shape = ir.Shape(dims)
        names = FreshNames(model)
        for name, index in self.use.constants:
            self._renumber(model.graph, nodes[name], index, names)
        return ir.passes.PassResult(model, modified=True)

    def _renumber(self, graph: ir.Graph, node: ir.Node, index: int, names: FreshNames) -> None:
        """A copy of a constant, since others may read it; an id that is gone equals none."""
        old = node.inputs[index]
        assert old is not None
        tensor = old.const_value
        assert tensor is not None
        ids = tensor.numpy()
        place = np.minimum(np.searchsorted(self.kept, ids), self.kept.size - 1)
        new = np.where(self.kept[place] == ids, place, -1).astype(ids.dtype)
        name = names.near(f"{old.name}_trimmed")
        value = ir.Value(
            name=name,
            shape=ir.Shape(new.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=ir.tensor(new, name=name),
        )
        graph.register_initializer(value)
        node.replace_input_with(index, value)
