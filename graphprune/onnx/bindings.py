"""Sizes for dynamic dimensions: which names a model has, and plausible sizes to bind them to.

A binding is a mapping from dimension name to size. An input dimension without a name is addressed
as `input:axis` (`images:0`). A name that is arithmetic over other dimension names of the inputs
(`past_length + length`) is not bound but computed. Two bindings are made so that what holds at one
size by accident does not hold at the other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphprune.errors import UsageError

Dims = tuple[int, ...]


def dim_names(value: ir.Value) -> tuple[int | str, ...] | None:
    """Dims of an input: ints, or names by which a binding addresses them; None without a rank.

    Negative sizes and names such as `?`, which some exporters write for "any", count as unnamed.
    """
    if value.shape is None or not isinstance(value.type, ir.TensorType | None):
        return None
    names: list[int | str] = []
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int) and dim >= 0:
            names.append(dim)
        elif isinstance(dim, ir.SymbolicDim) and any(map(str.isalnum, dim.value or "")):
            names.append(str(dim.value))
        else:
            names.append(f"{value.name}:{axis}")
    return tuple(names)


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """The graph inputs that a caller must feed: those without an initializer of the same name."""
    return [v for v in model.graph.inputs if v.name not in model.graph.initializers]


def dynamic_dims(model: ir.Model) -> dict[str, tuple[str, int, int]]:
    """Name of each dynamic input dimension -> (input, axis, rank) of its first occurrence."""
    found: dict[str, tuple[str, int, int]] = {}
    for value in real_inputs(model):
        names = dim_names(value)
        for axis, name in enumerate(names or ()):
            if isinstance(name, str):
                found.setdefault(name, (value.name or "", axis, len(names or ())))
    computed = {name for name in found if _operands(name) and set(_operands(name)) <= set(found)}
    return {name: place for name, place in found.items() if name not in computed}


@functools.lru_cache(maxsize=4096)
def _operands(name: str) -> tuple[str, ...]:
    """Dimension names that `name` is arithmetic over; empty for a plain name."""
    if not re.search(r"[-+*/()]", name):
        return ()
    try:
        symbols = ir.SymbolicDim(name).free_symbols()
    except ValueError:  # not an expression: an unusual plain name
        return ()
    return tuple(sorted(s for s in symbols if s != name))


def bound_dim(name: str, binding: Mapping[str, int]) -> int | None:
    """Size of a dimension name under `binding`, computed where the name is arithmetic."""
    if name in binding:
        return binding[name]
    operands = _operands(name)
    if not operands or any(o not in binding for o in operands):
        return None
    size = ir.SymbolicDim(name).evaluate(dict(binding))
    return size if isinstance(size, int) else None


def input_dims(value: ir.Value, binding: Mapping[str, int]) -> Dims | None:
    """Concrete dims of a graph input. Raises UsageError for a dimension the binding leaves open."""
    names = dim_names(value)
    if names is None:
        return None
    dims: list[int] = []
    for name in names:
        size = name if isinstance(name, int) else bound_dim(name, binding)
        if size is None:
            raise UsageError(
                f"input '{value.name}' has the dynamic dimension '{name}': give it a size with "
                f"--dim '{name}=N'"
            )
        dims.append(size)
    return tuple(dims)


def _is_state(name: str, axis: int, rank: int) -> bool:
    """An unnamed middle axis of rank 3: the batch of a recurrent state [layers, batch, hidden]."""
    return rank == 3 and axis == 1 and name.endswith(":1")


_IMAGE = re.compile(r"height|width|^h$|^w$|^h_|^w_|_h$|_w$|image_?size", re.IGNORECASE)
_BATCH = re.compile(r"batch|^n$|^b$|^bs$", re.IGNORECASE)
_PAST = re.compile(r"past|cache", re.IGNORECASE)
_TOTAL = re.compile(r"total", re.IGNORECASE)
_TIME = re.compile(r"samples|time|frames|audio|wave|signal", re.IGNORECASE)


@dataclass(frozen=True)
class Rung:
    """One step of the ladder of candidate sizes: the pair that each kind of dimension gets."""

    image: tuple[int, int]
    sequence: tuple[int, int]
    time: tuple[int, int]


RUNGS = (
    Rung(image=(64, 96), sequence=(12, 17), time=(512, 768)),
    Rung(image=(224, 256), sequence=(32, 48), time=(1600, 2400)),
    Rung(image=(512, 640), sequence=(128, 160), time=(16000, 24000)),
    Rung(image=(32, 64), sequence=(512, 768), time=(3000, 3000)),
)
"""Sizes that are tried in this order until the model runs; small ones first, they are cheap."""


def default_bindings(
    model: ir.Model, overrides: Mapping[str, int] | None = None, rung: int = 0
) -> tuple[dict[str, int], dict[str, int]]:
    """Two bindings of every dynamic input dimension with distinct, plausible sizes.

    By name, else by position: batch (axis 0) 2 and 3; image height and width (axes 2 and 3 of a
    rank-4 input) 64 and 96; past length 5 and 7; total length past + sequence; audio samples 512
    and 768; anything else a sequence, 12 and 17, with further names one apart. `overrides` hold in
    both.

    Args:
        model: Its graph inputs are read.
        overrides: Sizes given by the user.
        rung: Which of `RUNGS` to use: a net that needs larger images or longer sequences is tried
            at a later one (`runtime.find_trials`).

    Raises:
        UsageError: An override for a name that the model does not have, or a size under 1.
    """
    overrides = dict(overrides or {})
    names = dynamic_dims(model)
    for name, size in overrides.items():
        if name not in names:
            known = ", ".join(f"'{n}'" for n in names) or "none: all shapes are static"
            raise UsageError(f"the model has no dynamic dimension '{name}' (it has {known})")
        if size < 1:
            raise UsageError(f"dimension '{name}' needs a size of at least 1, not {size}")
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    sizes_of = RUNGS[rung]
    sequences = 0
    totals: list[str] = []
    first_input = next((v.name for v in real_inputs(model)), None)
    for name, (value, axis, rank) in names.items():
        if name in overrides:
            sizes = (overrides[name], overrides[name])
        elif _BATCH.search(name) or (_is_state(name, axis, rank) and value != first_input):
            sizes = (2, 3)
        elif _TOTAL.search(name):
            totals.append(name)
            continue
        elif _PAST.search(name):
            sizes = (5, 7)
        elif _IMAGE.search(name) or (rank >= 4 and axis >= 2 and "seq" not in name.lower()):
            sizes = sizes_of.image
        elif axis == 0 and "seq" not in name.lower():
            sizes = (2, 3)
        elif _TIME.search(name):
            sizes = sizes_of.time
        else:
            sizes = (sizes_of.sequence[0] + sequences, sizes_of.sequence[1] + sequences)
            sequences += 1
        first[name], second[name] = sizes
    for name in totals:
        for binding in (first, second):
            parts = [n for n in binding if _PAST.search(n) or "seq" in n.lower()]
            binding[name] = sum(binding[n] for n in parts) or (12 if binding is first else 17)
    return first, second
