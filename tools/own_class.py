"""How often the user's own class is kept by the torch front end, and by which rung of the ladder.

python -m tools.own_class --out own.jsonl transformers:bert torchvision:resnet18 timm:levit_128
python -m tools.own_class --out own.jsonl --list
python -m tools.own_class --table own.jsonl
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.decide import decide
from graphprune.errors import GraphpruneError
from graphprune.options import Options
from graphprune.torch.capture import Captured, capture
from graphprune.torch.own import own_class
from graphprune.torch.rewrite import rewrite
from graphprune.torch.subject import TorchSubject
from tools.own_check import Against

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "dims": {"channels": 0.5, "align": 1, "residual": True},
    "heads": {"heads": 0.5},
    "channels": {"channels": 0.5},
    "head_dims": {"head_dims": 0.5},
}

TORCHVISION: tuple[str, ...] = (
    *("alexnet", "convnext_tiny", "deeplabv3_mobilenet_v3_large", "densenet121"),
    *("efficientnet_b0", "efficientnet_v2_s", "fcn_resnet50", "googlenet", "inception_v3"),
    *("lraspp_mobilenet_v3_large", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d"),
    *("shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32"),
)


def names() -> list[str]:
    """The list that is measured."""
    found = [f"torchvision:{n}" for n in TORCHVISION]
    for family in ("transformers", "timm"):
        listed = importlib.import_module(f"models_zoo.builders.{family}_models").NAMES
        found += [f"{family}:{n}" for n in listed]
    return found


def sample(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A live module and its inputs by name."""
    family, _, key = name.partition(":")
    found = importlib.import_module(f"models_zoo.builders.{family}_models").sample(key)
    return found.module, dict(found.inputs)


def measure(name: str, captured: Captured, setting: str) -> dict[str, Any]:
    """One plan: whether the class was kept, how, and the seconds it took."""
    record: dict[str, Any] = {"model": name, "setting": setting}
    subject = TorchSubject(captured)
    options = Options(**SETTINGS[setting])
    silent: Callable[..., None] = lambda *_: None  # noqa: E731
    try:
        plan, graph = decide(subject, options, silent)
        plan, _, made, edits = rewrite(
            captured, plan, graph, lambda more: decide(subject, options, silent, more)
        )
    except GraphpruneError as error:
        return record | {"outcome": "no plan", "why": str(error)[:200]}
    if not plan.initializers:
        return record | {"outcome": "no plan", "why": "nothing to prune"}
    against = Against(captured, plan)
    graph_says = against(made)
    if graph_says:
        return record | {"outcome": "graph differs", "why": graph_says[:200]}
    start = time.perf_counter()
    kept = own_class(captured, plan, edits, against)
    record["seconds"] = round(time.perf_counter() - start, 2)
    record["tried"] = against.tried
    outcome = "kept" if kept.module is not None else "graph"
    return record | {"outcome": outcome, "why": kept.why[:300], "changed": len(kept.changed)}


def table(path: Path) -> None:
    """Shares by setting, and what was not kept."""
    records = {(r["model"], r["setting"]): r for r in map(json.loads, path.open())}
    for setting in SETTINGS:
        mine = [r for (_, s), r in records.items() if s == setting]
        count = collections.Counter(r["outcome"] for r in mine)
        asked = count["kept"] + count["graph"]
        print(f"{setting:10s} kept {count['kept']} of {asked}   {dict(count)}")
        rungs = collections.Counter(
            r["why"].partition(":")[0] for r in mine if r["outcome"] == "kept"
        )
        print(f"           {dict(rungs)}")
    for (model, setting), r in records.items():
        if r["outcome"] != "kept" and r.get("why") != "nothing to prune":
            print(f"{model:45s} {setting:10s} {r['outcome']:14s} {r.get('why', '')[:170]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--list", action="store_true", help="measure the whole list")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table:
        table(args.table)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out = args.out.open("a") if args.out else None
    for name in names() if args.list else args.models:
        records: list[dict[str, Any]] = []
        try:
            module, inputs = sample(name)
            captured = capture(module, (), inputs, training=False)
            for setting in args.settings.split(","):
                try:
                    records.append(measure(name, captured, setting))
                except Exception as error:
                    why = f"{type(error).__name__}: {error}"[:300]
                    records.append(
                        {"model": name, "setting": setting, "outcome": "error", "why": why}
                    )
                print(json.dumps(records[-1]), flush=True)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:300]
            records.append({"model": name, "setting": "dims", "outcome": "no graph", "why": why})
            print(json.dumps(records[-1]), flush=True)
        for record in records if out else ():
            out.write(json.dumps(record) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
