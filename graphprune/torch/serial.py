"""Saving a pruned module without pickled code, and putting it into a fresh instance of its class.

A file is safetensors: the tensors of the state dict, and as metadata the plan and the example inputs
(their sizes and, of integers, their contents). Loading prunes a fresh instance by the plan, which
proves again that the two fit, and fills in the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.errors import UsageError
from graphprune.plan import Plan
from graphprune.torch.pipeline import Pruned, prune

_FORMAT = "1"
_DTYPES = {str(t): t for t in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}
_DTYPES |= {str(t): t for t in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)}
_DTYPES |= {str(t): t for t in (torch.bool, torch.complex64)}


def save(pruned: Pruned, path: str | Path, module: nn.Module | None = None) -> None:
    """Write a pruned module to one safetensors file.

    Args:
        pruned: As of `prune`.
        path: The file; whole or not at all.
        module: Where the module has been trained on as another object (a copy, a compiled one).

    Raises:
        UsageError: The file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    from graphprune.files import write_atomically

    result = module if module is not None else pruned.module
    tensors, ties = _distinct(result)
    captured = pruned.captured
    metadata = {
        "graphprune": _FORMAT,
        "class": type(captured.module or result).__qualname__,
        "kind": pruned.kind,
        "plan": pruned.plan.dumps(),
        "ties": json.dumps(ties, sort_keys=True),
        "inputs": json.dumps([_described(a) for a in captured.args]),
        "named_inputs": json.dumps({n: _described(a) for n, a in captured.kwargs.items()}),
    }
    data = to_bytes(tensors, metadata)
    write_atomically(Path(path), lambda file: file.write(data))


def load(path: str | Path, module: nn.Module, args: Any = None, **given: Any) -> Pruned:
    """A fresh instance of the class, pruned as the saved module was, with its weights.

    Args:
        path: A file of `save`.
        module: A fresh, whole instance of the class; unchanged.
        args: Example inputs; those of the saved module are made again where they are tensors.
        **given: As for `prune` (`kwargs=`, `dynamic_shapes=`, `own=`).

    Raises:
        UsageError: No such file, a damaged one, or one of another class or another size of it.
    """
    metadata, tensors = _read(Path(path))
    plan = Plan.from_json(json.loads(metadata["plan"]))
    wanted, found = metadata["class"], type(module).__qualname__
    if wanted != found:
        raise UsageError(
            f"{path} holds a pruned {wanted}, this is a {found}: give an instance of it"
        )
    if args is None and "kwargs" not in given:
        args = tuple(_made(d) for d in json.loads(metadata["inputs"]))
        given["kwargs"] = {n: _made(d) for n, d in json.loads(metadata["named_inputs"]).items()}
    own = {"module": True, "graph": False}[metadata["kind"]]
    pruned = prune(module, args, plan=plan, **{"own": own, "verify": False, **given})
    _fill(pruned.module, tensors, json.loads(metadata["ties"]), str(path))
    return pruned


def _fill(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], ties: Mapping[str, str], path: str
) -> None:
    state = {**tensors, **{name: tensors[first] for name, first in ties.items()}}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        line = [x.strip() for x in str(error).splitlines() if x.strip()]
        raise UsageError(
            f"the weights of {path} do not fit this class: {' '.join(line[1:2])}"
        ) from error


def _distinct(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every tensor once, and which names stand for the same."""
    tensors: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple[int, int], str] = {}
    for name, tensor in module.state_dict().items():
        key = tensor.data_ptr(), tensor.numel()
        if tensor.numel() and key in first and tensors[first[key]].shape == tensor.shape:
            ties[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().contiguous().cpu()
    return tensors, ties


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"cannot read {path}: {line}") from error
    if metadata.get("graphprune") != _FORMAT:
        raise UsageError(f"{path} was not written by graphprune.torch.save")
    return metadata, tensors


def _described(value: Any) -> Any:
    """An example input as plain data: of numbers with a fraction, only how many there are."""
    leaves, spec = pytree.tree_flatten(value)
    if len(leaves) == 1 and isinstance(value, torch.Tensor):
        exact = not value.is_floating_point() and not value.is_complex()
        return {
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "values": value.reshape(-1).tolist() if exact else None,
        }
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    return {"unknown": str(spec)}


def _made(data: Mapping[str, Any]) -> Any:
    if "value" in data:
        return data["value"]
    if "unknown" in data:
        raise UsageError("an example input of the saved module was no tensor: give args=")
    dtype = _DTYPES[data["dtype"]]
    shape: Sequence[int] = data["shape"]
    if data["values"] is not None:
        return torch.tensor(data["values"], dtype=dtype).reshape(list(shape))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(list(shape), generator=generator).to(dtype)
