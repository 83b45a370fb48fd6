"""Does a built graph run, at two sizes where it is dynamic, with a signal that is alive?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

#: Two bindings of the dims that builders leave open.
BINDINGS: tuple[Mapping[str, int], ...] = (
    {"batch": 2, "sequence": 16, "target": 12, "time": 9},
    {"batch": 3, "sequence": 11, "target": 7, "time": 5},
)


@dataclass(frozen=True)
class Health:
    """What a run in onnxruntime showed.

    Attributes:
        shapes: The output shapes, one tuple per binding.
        spread: Smallest standard deviation of any output.
        variation: Smallest standard deviation between samples, relative to `spread`: near zero
            means that the input does not reach the output.
    """

    shapes: tuple[tuple[tuple[int, ...], ...], ...]
    spread: float
    variation: float


def feeds(
    model: onnx.ModelProto, binding: Mapping[str, int], seed: int = 0
) -> dict[str, np.ndarray]:
    """Live inputs for a model of the builders.

    Images get coarse structure and a brightness of their own, masks hide the tail of every second
    sample, integers are token ids below 50.
    """
    random = np.random.default_rng(seed)
    result: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [
            d.dim_value if d.HasField("dim_value") else binding[d.dim_param] for d in kind.shape.dim
        ]
        if "mask" in value.name:
            array = np.ones(shape)
            array[1::2, -shape[1] // 4 :] = 0
        elif kind.elem_type != onnx.TensorProto.FLOAT:
            array = random.integers(0, 50, shape)
        else:
            array = random.normal(size=shape) * 0.5
            blocks = [-(-s // 32) if i > 1 else s for i, s in enumerate(shape)]
            coarse = random.normal(size=blocks)
            for axis in range(2, len(shape)):
                coarse = coarse.repeat(32, axis).take(range(shape[axis]), axis)
            array = array + coarse
        result[value.name] = array.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return result


def examine(model: onnx.ModelProto) -> Health:
    """Run `model` in onnxruntime at both bindings (one, if nothing in it is dynamic)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    dynamic = any(d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim)
    shapes, spread, variation = [], np.inf, np.inf
    for binding in BINDINGS if dynamic else BINDINGS[:1]:
        outputs = [np.asarray(o) for o in session.run(None, feeds(model, binding))]
        if not all(np.isfinite(o).all() for o in outputs):
            raise ValueError("an output is not finite")
        shapes.append(tuple(o.shape for o in outputs))
        for output in outputs:
            spread = min(spread, float(output.std()))
            between = float(output.std(0).mean()) / (float(output.std()) + 1e-30)
            variation = min(variation, between)
    return Health(tuple(shapes), spread, variation)
