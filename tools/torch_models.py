"""Torch architectures of the zoo, a training step, and Torch-Pruning on the same architecture."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tools._common import Record

#: Attributes of an attention that hold its projections, and its number of heads.
_PROJECTIONS = (
    "qkv",
    "query",
    "key",
    "value",
    "q_proj",
    "k_proj",
    "v_proj",
    "q",
    "k",
    "v",
    "c_attn",
)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")


def names_of(family: str) -> list[str]:
    """The architectures of one family."""
    module: Any = importlib.import_module(f"models_zoo.builders.{_builder(family)}_models")
    if family == "torchvision":
        return list(module.classification())
    if family == "segmentation":
        return list(module.segmentation())
    return list(module.names() if hasattr(module, "names") else module.NAMES)


def _builder(family: str) -> str:
    return "torchvision" if family == "segmentation" else family


def build(model: str) -> Any:
    """The sample of `family:name`."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    family, _, name = model.partition(":")
    module = importlib.import_module(f"models_zoo.builders.{_builder(family)}_models")
    return module.sample(name)


def one_more(inputs: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {k: torch.cat([v, v[:1]]) if v.ndim else v for k, v in inputs.items()}


def loss(outputs: Any) -> Any:
    import torch
    from torch.utils import _pytree as pytree

    leaves = [t for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor)]
    return sum(t.float().square().mean() for t in leaves if t.is_floating_point())


def trains(module: Any, inputs: Mapping[str, Any]) -> str:
    """`yes`, or what is wrong with a forward and a backward pass at another batch size."""
    try:
        loss(module.train()(**one_more(inputs))).backward()
    except Exception as error:
        return where(error)
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    alive = sum(bool(g.isfinite().all()) for g in grads)
    return "yes" if alive == len(grads) else f"{len(grads) - alive} gradients are not finite"


def where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {lines[0]}"[:300]


def beside(model: str, folder: str) -> Record:
    """Torch-Pruning on the same model, at the same ratio of channels. Never raises.

    It is told which layer is the last and, for every attention, its projections and number of heads;
    afterwards the modules' numbers of heads are set, as its documentation says.
    """
    sys.path.insert(0, folder)
    try:
        return _beside(model)
    except Exception as error:
        return {"outcome": "error", "reason": where(error)}


def _beside(model: str) -> Record:
    import torch
    import torch_pruning as tp  # type: ignore[import-not-found]
    from torch.utils import _pytree as pytree

    sample = build(model)
    module, given = sample.module, dict(sample.inputs)
    shapes = [t.shape for t in pytree.tree_leaves(module(**given))]
    last = _last_layer(module, given)
    start = time.process_time()
    found = tp.DependencyGraph().build_dependency(module, example_inputs=given)
    groups = sum(1 for _ in found.get_all_groups(ignored_layers=[last]))
    analysis = time.process_time() - start
    before = tp.utils.count_ops_and_params(module, given)
    heads = _heads(module)
    start = time.process_time()
    pruner = tp.pruner.MetaPruner(
        module,
        given,
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[last],
        num_heads={p: n for _, _, p, n in heads},
        prune_num_heads=True,
        head_pruning_ratio=0.5,
    )
    pruner.step()
    for owner, attribute, projection, _ in heads:
        setattr(owner, attribute, pruner.num_heads.get(projection, getattr(owner, attribute)))
    seconds = time.process_time() - start
    record: Record = {"analysis_s": round(analysis, 3), "prune_s": round(seconds, 3)}
    record |= {"groups": groups, "version": version_in(Path(tp.__file__).parent.parent)}
    fate = trains(module, given)
    after = tp.utils.count_ops_and_params(module.eval(), given)
    record |= {"params": [before[1], after[1]], "macs": [before[0], after[0]]}
    with torch.no_grad():
        changed = [t.shape for t in pytree.tree_leaves(module(**given))] != shapes
    if changed or fate != "yes":
        reason = "the shapes of the outputs changed" if changed else fate
        return {"outcome": "broken", "reason": reason, **record}
    return {"outcome": "pruned", "reason": "", **record}


def version_in(folder: Path) -> str:
    """Of the Torch-Pruning that is installed in `folder`."""
    found = (d.version for d in distributions(path=[str(folder)]) if d.name == "torch-pruning")
    return next(found, "")


def _last_layer(module: Any, given: Mapping[str, Any]) -> Any:
    import torch
    from torch import nn

    order: list[Any] = []
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [
        m.register_forward_hook(lambda m, *_: order.append(m))
        for m in module.modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        module(**given)
    for handle in handles:
        handle.remove()
    return order[-1]


def _heads(module: Any) -> list[tuple[Any, str, Any, int]]:
    """(attention, name of its number of heads, projection, number)."""
    from torch import nn

    found = []
    for owner in module.modules():
        attribute = next((a for a in _HEADS if isinstance(getattr(owner, a, None), int)), None)
        if attribute is None:
            continue
        for name in _PROJECTIONS:
            part = getattr(owner, name, None)
            if isinstance(part, nn.Linear):
                found.append((owner, attribute, part, getattr(owner, attribute)))
    return found
