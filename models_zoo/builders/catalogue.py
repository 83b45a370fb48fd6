"""All architectures by name, exported on demand and kept in a folder of the caller's.

    python -m models_zoo.builders.catalogue --out FOLDER [--family F] [--name NAME ...]

writes `FOLDER/NAME.onnx` (weights inside, dynamic dims) for each architecture that is not there
yet, runs it in onnxruntime and prints a line about it; failures are listed at the end.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import onnx

from models_zoo.builders import micrographs

Exporter = Literal["dynamo", "legacy"]


def _torchvision() -> list[str]:
    return importlib.import_module("models_zoo.builders.torchvision_models").classification()


def _segmentation() -> list[str]:
    return importlib.import_module("models_zoo.builders.torchvision_models").segmentation()


def _transformers() -> list[str]:
    return list(importlib.import_module("models_zoo.builders.transformers_models").NAMES)


#: Family -> its names, and the module whose `sample` builds them (None: built without torch).
FAMILIES: dict[str, tuple[Callable[[], list[str]], str | None]] = {
    "micro": (lambda: list(micrographs.NAMES), None),
    "torchvision": (_torchvision, "torchvision_models"),
    "segmentation": (_segmentation, "torchvision_models"),
    "transformers": (_transformers, "transformers_models"),
}


def names(family: str | None = None) -> list[str]:
    """The architectures of one family, or of all. Raises ValueError for an unknown family."""
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: choose from {', '.join(FAMILIES)}")
    chosen = FAMILIES if family is None else {family: FAMILIES[family]}
    return [name for listed, _ in chosen.values() for name in listed()]


def build(
    name: str,
    *,
    exporter: Exporter = "dynamo",
    opset: int = 18,
    dynamic: bool = True,
    optimize: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> onnx.ModelProto:
    """The ONNX graph of architecture `name`, the same weights on every call.

    Args:
        name: One of `names()`. Micro-graphs, made without torch, ignore `exporter` and `dynamic`.
        exporter: torch's `dynamo` or `legacy` exporter.
        opset: 17 (legacy only), 18 or 23.
        dynamic: Leave batch and sequence lengths open.
        optimize: False: the dynamo exporter's graph as translated, batch norm not folded.
        cache: A folder in which the file is looked up first and left afterwards.

    Raises:
        ValueError: An unknown name.
        RuntimeError or a subclass: The exporter cannot handle the architecture.
    """
    choices = (exporter, opset, dynamic, optimize)
    path = None if cache is None else Path(cache) / filename(name, *choices)
    if path is not None and path.exists():
        return onnx.load(path)
    model = _build(name, *choices)
    if path is not None:
        _keep(model, path)
    return model


def _keep(model: onnx.ModelProto, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_bytes(model.SerializeToString())
    unfinished.replace(path)


def filename(
    name: str, exporter: Exporter, opset: int, dynamic: bool, optimize: bool = True
) -> str:
    """`NAME.onnx` for the defaults of `build`; other choices are spelt out."""
    parts = [name]
    if (exporter, opset) != ("dynamo", 18):
        parts.append(f"{exporter}{opset}")
    if not dynamic:
        parts.append("static")
    if not optimize:
        parts.append("raw")
    return ".".join([*parts, "onnx"])


def _build(
    name: str, exporter: Exporter, opset: int, dynamic: bool, optimize: bool
) -> onnx.ModelProto:
    if name in micrographs.NAMES:
        return micrographs.build(name, opset=opset)
    for listed, module in FAMILIES.values():
        if module is not None and name in listed():
            sample: Any = importlib.import_module(f"models_zoo.builders.{module}").sample(name)
            export = importlib.import_module("models_zoo.builders.export").export
            model: onnx.ModelProto = export(
                sample.module,
                sample.inputs,
                exporter=exporter,
                opset=opset,
                dynamic=dynamic,
                optimize=optimize,
                axes=sample.axes,
                output_names=sample.outputs,
            )
            model.graph.name = name
            return model
    raise ValueError(f"unknown architecture {name!r}: see models_zoo.builders.catalogue.names()")


def fill(
    chosen: Iterable[str],
    folder: Path,
    *,
    exporter: Exporter = "dynamo",
    opset: int = 18,
    dynamic: bool = True,
    optimize: bool = True,
) -> dict[str, str]:
    """Build and run each of `chosen`, printing a line for each; returns the failures by name.

    A graph that does not run in onnxruntime is not kept.
    """
    from models_zoo.builders.checks import examine

    choices = (exporter, opset, dynamic, optimize)
    failures: dict[str, str] = {}
    for name in chosen:
        started = time.perf_counter()
        try:
            path = folder / filename(name, *choices)
            present = path.exists()
            model = onnx.load(path) if present else _build(name, *choices)
            health = examine(model)
            if not present:
                _keep(model, path)
            line = f"{len(model.graph.node)} nodes, outputs {health.shapes[-1]}"
            line += f", spread {health.spread:.3f}, variation {health.variation:.3f}"
        except Exception as error:  # exporters raise whatever they meet: the list goes on
            failures[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            line = f"FAILED {failures[name]}"
        print(f"{name}: {line}, {time.perf_counter() - started:.1f} s", flush=True)
    return failures


def main() -> int:
    """The command line described at the top of this file."""
    parser = argparse.ArgumentParser(description="Export architectures to ONNX with live weights.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", choices=tuple(FAMILIES))
    parser.add_argument("--name", nargs="+", help="only these")
    parser.add_argument("--exporter", choices=("dynamo", "legacy"), default="dynamo")
    parser.add_argument("--opset", type=int, default=18)
    parser.add_argument("--static", action="store_true", help="no dynamic dims")
    parser.add_argument("--raw", action="store_true", help="dynamo: leave the graph unoptimised")
    options = parser.parse_args()
    failures = fill(
        options.name or names(options.family),
        options.out,
        exporter=options.exporter,
        opset=options.opset,
        dynamic=not options.static,
        optimize=not options.raw,
    )
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
