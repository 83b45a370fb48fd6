"""Random calibration inputs, for those who have no others: `random`, or `random:LOW:HIGH`.

Integers are what their consumers take (token ids, masks, positions, bytes). Floats lie in the range
that is declared; where none is, in that of a model that begins by scaling pixels (x / 255), else they
are drawn from N(0, 1). Activations then have other correlations than on real data, and inputs held out
for judging are random too, so that a refit's harm would not show. So nothing is chosen by them unless
a criterion is named, and nothing is fitted to them; damage can still be measured on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.bindings import dynamic_dims, real_inputs
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.runtime import find_trials

Array = np.ndarray[Any, Any]

WARNING = (
    "calibration inputs are random: units are ranked by weights alone and nothing is refitted, as "
    "if there were none; damage measured on them says little of real data. Expect the accuracy of "
    "pruning without data: give a hundred real unlabelled inputs to keep more of it"
)

_TRANSPARENT = ("Cast", "Identity", "Transpose", "Unsqueeze", "Squeeze", "Reshape")
_PIXELS = 16.0
"""From this range on a float input counts pixels."""


def is_random(source: Any) -> bool:
    """Whether a source is `random` or `random:LOW:HIGH`."""
    if not isinstance(source, str) or not source.startswith("random"):
        return False
    rest = source.removeprefix("random")
    return not rest or (rest.startswith(":") and rest.count(":") == 2)


def declared_range(source: str) -> tuple[float, float] | None:
    """LOW and HIGH; None where they are not given. Raises UsageError for what is no range."""
    if source == "random":
        return None
    try:
        low, high = (float(part) for part in source.split(":")[1:])
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"{source} is not random:LOW:HIGH with LOW below HIGH, e.g. random:0:1")
    return low, high


def noise_feeds(
    model: ir.Model,
    source: str,
    samples: int,
    seed: int = 0,
    dims: dict[str, int] | None = None,
) -> Iterator[dict[str, Array]]:
    """`samples` seeded calls of the model, at the sizes at which it was found to run.

    Args:
        model: Its inputs and their consumers are read.
        source: `random` or `random:LOW:HIGH`.
        samples: Of how many the inputs are; one a call.
        seed: Of the generator.
        dims: Sizes that the user gave to dynamic dimensions.

    Raises:
        UsageError: No range.
        UnsupportedModelError: The model runs at no sizes that were tried.
    """
    declared = declared_range(source)
    try:
        binding = dict(find_trials(model, dims, seed)[0].binding)
    except UnsupportedModelError as error:
        raise UsageError(f"random calibration inputs cannot be made: {error}") from error
    for name, (_, axis, _) in dynamic_dims(model).items():
        if axis == 0 and name not in (dims or {}):
            binding[name] = 1
    floats = [v for v in real_inputs(model) if v.dtype is not None and v.dtype.is_floating_point()]
    ranges = {
        v.name or "": declared or inferred_range(v)
        for v in floats
        if "mask" not in (v.name or "").lower()
    }
    for i in range(samples):
        feed = random_feeds(model, binding, seed + i)
        generator = np.random.default_rng([seed, i])
        for name, found in ranges.items():
            if found is not None:
                array = generator.uniform(*found, feed[name].shape)
                feed[name] = np.asarray(array).astype(feed[name].dtype)
        yield feed


def inferred_range(value: ir.Value) -> tuple[float, float] | None:
    """The range of an input that the model scales first: by 255, or by 127.5 about 127.5."""
    seen: ir.Value = value
    for _ in range(8):
        uses = list(seen.uses())
        if len(uses) != 1:
            return None
        node, position = uses[0].node, uses[0].idx
        if node.op_type in _TRANSPARENT and position == 0:
            seen = node.outputs[0]
            continue
        if node.op_type not in ("Div", "Mul", "Sub") or (node.op_type != "Mul" and position):
            return None
        constant = _largest(node.inputs[1 - position])
        if not constant:
            return None
        high = {"Div": constant, "Mul": 1 / constant, "Sub": 2 * constant}[node.op_type]
        return (0.0, high) if _PIXELS <= high <= 65536 else None
    return None


def _largest(value: ir.Value | None) -> float:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None or tensor.size == 0 or tensor.size > 64:
        return 0.0
    return float(np.abs(tensor.numpy().astype(np.float64)).max())
