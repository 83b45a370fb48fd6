"""The student is the pruned graph: shown before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from graphprune.distill.module import OnnxModule
from graphprune.distill.teacher import tensors
from graphprune.errors import CertificateError
from graphprune.onnx.runtime import Session
from graphprune.rules.context import node_name

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-3
"""Norm of the difference over the norm of a value; single precision over hundreds of layers."""

_FLOOR = 1e-5


def require_equal(
    model: ir.Model, student: OnnxModule, feeds: Mapping[str, Array], threads: int = 1
) -> None:
    """Compare all outputs of both on the same inputs.

    Raises:
        CertificateError: They differ; the message names the first value in graph order that does.
    """
    device = next(student.parameters()).device
    with Session(model, threads=threads) as session, torch.no_grad():
        wanted = session.run(feeds)
        found = student(tensors(feeds, device))
        if all(_alike(found[n].cpu().numpy(), a) for n, a in wanted.items()):
            return
    names = [v.name for node in model.graph for v in node.outputs if v.name]
    with Session(model, threads=threads, optimize=False, outputs=names) as session:
        wanted = session.run(feeds)
    with torch.no_grad():
        found = student(tensors(feeds, device), names)
    for node in model.graph:
        for value in node.outputs:
            name = value.name
            if name and name in found and not _alike(found[name].cpu().numpy(), wanted[name]):
                raise CertificateError(
                    f"in torch the pruned graph differs from onnxruntime, first at '{name}' (node "
                    f"'{node_name(node)}', {node.op_type}): nothing was trained and nothing written"
                )


def _alike(found: Array, wanted: Array) -> bool:
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind != "f":
        return bool((found != wanted).mean() <= TOLERANCE) if wanted.size else True
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    usable = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~usable], b[~usable], equal_nan=True):
        return False
    error, norm = np.linalg.norm(a[usable] - b[usable]), np.linalg.norm(b[usable])
    return bool(error <= TOLERANCE * norm + _FLOOR * np.sqrt(usable.sum()))
