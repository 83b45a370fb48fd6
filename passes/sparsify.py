"""Single weights set to zero, as a mask says. Shapes, nodes and everything else stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import UsageError

__all__ = ["Mask", "SparsifyPass"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Mask:
    """Which elements of a tensor are pruned, a bit for each.

    Attributes:
        shape: Of the tensor.
        bits: As `numpy.packbits` packs them.
    """

    shape: tuple[int, ...]
    bits: bytes

    @classmethod
    def of(cls, pruned: Array) -> Mask:
        """From a bool array of the tensor's shape."""
        return cls(tuple(pruned.shape), np.packbits(pruned).tobytes())

    @property
    def pruned(self) -> Array:
        """A bool array of the tensor's shape."""
        count = int(np.prod(self.shape, dtype=np.int64))
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count)
        return flat.view(bool).reshape(self.shape)


class SparsifyPass(ir.passes.InPlacePass):
    """Set what is pruned to zero (all bits); every other element keeps its bits.

    Weights that lie in files are read when they are asked for, and again each time.

    Args:
        masks: Initializer name -> what is pruned of it; initializers of bodies too.
    """

    def __init__(self, masks: Mapping[str, Mask]) -> None:
        self.masks = masks

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises UsageError where a mask fits no initializer."""
        done = set()
        for graph in [model.graph, *model.graph.subgraphs()]:
            for name, value in graph.initializers.items():
                mask, tensor = self.masks.get(name), value.const_value
                if mask is None or tensor is None:
                    continue
                if tuple(int(d) for d in tensor.shape.numpy()) != mask.shape:
                    raise UsageError(f"the mask of '{name}' has another shape than the weight")
                value.const_value = _masked(tensor, mask, name)
                done.add(name)
        missing = [name for name in self.masks if name not in done]
        if missing:
            raise UsageError(f"there is a mask for '{missing[0]}', which the model does not have")
        return ir.passes.PassResult(model, modified=bool(done))


def _masked(tensor: ir.TensorProtocol, mask: Mask, name: str) -> ir.TensorProtocol:
    def contents() -> ir.Tensor[Any]:
        array = np.array(tensor.numpy())
        array[mask.pruned] = 0
        return ir.Tensor(array, dtype=tensor.dtype, name=name)

    if isinstance(tensor, ir.ExternalTensor):
        shape = ir.Shape(mask.shape)
        return ir.LazyTensor(contents, dtype=tensor.dtype, shape=shape, name=name)
    return contents()
