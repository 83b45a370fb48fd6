"""One file that an interrupted run goes on from: tensors as safetensors, the rest as JSON in it.

Nothing in it is code: reading it runs nothing.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.errors import UsageError, first_line
from graphprune.files import write_atomically
from graphprune.plan import Plan
from graphprune.torch.capture import named_tensors

FORMAT = 1
_KEY = "graphprune.run"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands.

    Attributes:
        run: What was asked for; a checkpoint goes on only with the same.
        step: Steps that are done.
        plans: The plan of each step; one that cuts nothing is there as well.
        kinds: `module` or `graph`: what each step gave.
        records: What each step cost and gave, plain data.
        weights: Path -> parameter or buffer.
        training: Paths of the parts that are in train mode.
        states: Name -> state dict of the optimizer and whatever else is kept.
        rng: States of the random generators of torch, CUDA, numpy and Python.
    """

    run: Mapping[str, Any]
    step: int
    plans: tuple[Plan, ...]
    kinds: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    weights: Mapping[str, torch.Tensor]
    training: tuple[str, ...]
    states: Mapping[str, Any]
    rng: Mapping[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, in place of the one that is there, or leave that as it is.

    Raises:
        UsageError: It cannot be written, or a state holds what is neither tensor nor plain data.
    """
    from safetensors.torch import save as to_bytes

    tensors: dict[str, torch.Tensor] = {}
    data = {
        "format": FORMAT,
        "run": dict(checkpoint.run),
        "step": checkpoint.step,
        "plans": [p.to_json() for p in checkpoint.plans],
        "kinds": list(checkpoint.kinds),
        "records": [dict(r) for r in checkpoint.records],
        "training": list(checkpoint.training),
        "weights": _packed(dict(checkpoint.weights), "weights", tensors),
        "states": _packed(dict(checkpoint.states), "states", tensors),
        "rng": _packed(dict(checkpoint.rng), "rng", tensors),
    }
    content = to_bytes(tensors, metadata={_KEY: json.dumps(data)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UsageError: It cannot be read, or is no checkpoint of this format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            data = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UsageError(f"{path} is no checkpoint of graphprune: give another path")
        return Checkpoint(
            run=data["run"],
            step=int(data["step"]),
            plans=tuple(Plan.from_json(p) for p in data["plans"]),
            kinds=tuple(data["kinds"]),
            records=tuple(data["records"]),
            weights=_unpacked(data["weights"], tensors),
            training=tuple(data["training"]),
            states=_unpacked(data["states"], tensors),
            rng=_unpacked(data["rng"], tensors),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        line = first_line(error)
        raise UsageError(f"checkpoint {path} cannot be read: {line}; remove it") from error


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by path, tied ones once, non-persistent buffers included."""
    found: dict[int, str] = {}
    result: dict[str, torch.Tensor] = {}
    for path, tensor in named_tensors(module):
        if found.setdefault(id(tensor), path) == path:
            result[path] = tensor
    return result


def put_weights(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the tensors of a module.

    Raises:
        UsageError: A tensor is missing or has another shape.
    """
    own = weights_of(module)
    for path, tensor in own.items():
        if path not in weights or weights[path].shape != tensor.shape:
            raise UsageError(f"the checkpoint has no '{path}' of shape {tuple(tensor.shape)}")
    with torch.no_grad():
        for path, tensor in own.items():
            tensor.copy_(weights[path])


def rng_states() -> dict[str, Any]:
    """States of all random generators that a training loop is likely to use."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def put_rng_states(states: Mapping[str, Any]) -> None:
    """The inverse of `rng_states`."""
    torch.set_rng_state(states["torch"])
    keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, gauss))
    random.setstate(states["python"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def _packed(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON; tensors are put into `tensors` and referred to by name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        # A copy: safetensors takes no tensors that share memory.
        tensors[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": where}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        tensors[where] = torch.from_numpy(np.ascontiguousarray(value).copy())
        return {"array": where}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, list | tuple):
        items = [_packed(v, f"{where}/{i}", tensors) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, Mapping):
        pairs = []
        for key, entry in value.items():
            if not isinstance(key, str | int):
                raise UsageError(f"'{where}' has keys of type {type(key).__name__}, not kept")
            pairs.append([key, _packed(entry, f"{where}/{key}", tensors)])
        return {"dict": pairs}
    raise UsageError(
        f"'{where}' is of type {type(value).__name__}: a checkpoint keeps tensors, numbers, text, "
        "lists and dicts"
    )


def _unpacked(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "bytes":
        return base64.b64decode(content)
    if kind == "dict":
        return {key: _unpacked(entry, tensors) for key, entry in content}
    items = [_unpacked(entry, tensors) for entry in content]
    return tuple(items) if kind == "tuple" else items
