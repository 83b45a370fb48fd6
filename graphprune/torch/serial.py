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

from graphprune.errors import UsageError, first_line
from graphprune.plan import Plan
from graphprune.torch.pipeline import prune
from graphprune.torch.result import Pruned

_FORMAT = "1"
_FACTS = "graphprune.json"
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
    data = to_bytes(_distinct(result)[0], _facts(pruned, result))
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
    facts, tensors = _read(Path(path))
    if facts.get("graphprune") != _FORMAT:
        raise UsageError(f"{path} was not written by graphprune.torch.save")
    return _put_back(facts, tensors, module, str(path), args, given)


def save_pretrained(pruned: Pruned, folder: str | Path) -> None:
    """A pruned Hugging Face model's own `save_pretrained`, and beside it what reloads it.

    Args:
        pruned: As of `prune`, of a transformers model whose class was kept.
        folder: As for `save_pretrained`; `graphprune.json` is added.

    Raises:
        UsageError: It is no such model.
    """
    original = pruned.captured.module
    config = getattr(original, "config", None)
    if pruned.kind != "module" or not hasattr(config, "to_json_string"):
        raise UsageError(
            "save_pretrained is for transformers models whose class was kept: use "
            "graphprune.torch.save for others"
        )
    assert config is not None
    whole: Any = pruned.module
    whole.save_pretrained(folder)
    facts = {**_facts(pruned, pruned.module), "config": config.to_json_string(use_diff=False)}
    text = json.dumps(facts, sort_keys=True)
    from graphprune.files import write_atomically

    write_atomically(Path(folder) / _FACTS, lambda file: file.write(text.encode()))


def from_pretrained(kind: Any, folder: str | Path, args: Any = None, **given: Any) -> Pruned:
    """The model that `save_pretrained` wrote.

    Args:
        kind: Its class, e.g. `BertForSequenceClassification`.
        folder: As for `save_pretrained`.
        args: As for `load`.
        **given: As for `prune`.

    Raises:
        UsageError: No such folder, or one of another class.
    """
    path = Path(folder) / _FACTS
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}): save pruned models with "
            "graphprune.torch.save_pretrained"
        ) from error
    _, tensors = _read(Path(folder) / "model.safetensors")
    config = kind.config_class.from_dict(json.loads(facts["config"]))
    return _put_back(facts, tensors, kind(config), str(folder), args, given)


def _put_back(
    facts: Mapping[str, str],
    tensors: Mapping[str, torch.Tensor],
    module: nn.Module,
    path: str,
    args: Any,
    given: dict[str, Any],
) -> Pruned:
    """Prune a fresh instance by the plan, then fill in the weights."""
    plan = Plan.from_json(json.loads(facts["plan"]))
    wanted, found = facts["class"], type(module).__qualname__
    if wanted != found:
        raise UsageError(
            f"{path} holds a pruned {wanted}, this is a {found}: give an instance of it"
        )
    if args is None and "kwargs" not in given:
        args = tuple(_made(d) for d in json.loads(facts["inputs"]))
        given["kwargs"] = {n: _made(d) for n, d in json.loads(facts["named_inputs"]).items()}
    own = {"module": True, "graph": False}[facts["kind"]]
    pruned = prune(module, args, plan=plan, **{"own": own, "verify": False, **given})
    _fill(pruned.module, tensors, json.loads(facts["ties"]), path)
    return pruned


def _facts(pruned: Pruned, result: nn.Module) -> dict[str, str]:
    """All that reloading needs beside the weights."""
    captured = pruned.captured
    return {
        "graphprune": _FORMAT,
        "class": type(captured.module or result).__qualname__,
        "kind": pruned.kind,
        "plan": pruned.plan.dumps(),
        "ties": json.dumps(_distinct(result)[1], sort_keys=True),
        "inputs": json.dumps([_described(a) for a in captured.args]),
        "named_inputs": json.dumps({n: _described(a) for n, a in captured.kwargs.items()}),
    }


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
        raise UsageError(f"cannot read {path}: {first_line(error)}") from error
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
