"""Gradient scores of coupled units of an ONNX model, with or without labels.

A unit is removed exactly by zeroing the weights that read it. Putting a factor m, 1 at first, on
these weights, the derivative of anything by m is the sum of w * d/dw over them, and removal is the
step from m = 1 to 0. Without labels the loss is the squared distance of the outputs from the
model's own, each divided by its variance. That and its gradient are 0 as long as nothing is
removed, so that its second order has to speak, or noise:

- `fisher`: mean over samples of (d(v . y) / dm)^2, v random signs over the normalised outputs y. Its
  expectation is the squared norm of dy / dm: the diagonal of the Gauss-Newton matrix, which is the
  Fisher information of a Gaussian around the outputs, and the relative squared error of the outputs
  that removing the unit makes, to second order.
- `taylor`: mean over samples of |d loss / dm| where the target is not the model's own output but
  that with noise on it. At the model's own output this derivative is -(noise . dy / dm), so with
  noise of random signs it is the same projection as above, not squared: single samples on which a
  unit matters much count less.

With a loss of the user's (labels) s = d loss / dm of each sample: `taylor` is mean |s|, `fisher` is
mean s^2 / 2, the empirical Fisher.

Sources: first order: Molchanov et al., ICLR'17 and CVPR'19; Fisher: Theis et al., 2018, Liu et al.
(Group Fisher), ICML'21; squared mask gradients of the model's own outputs: Kwon et al., 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.distill.need import need_torch
from graphprune.distill.projections import outputs_of, projected, samples_of, scale_of
from graphprune.errors import UsageError
from graphprune.selection.criteria import WeightOf, scores, units_at

if TYPE_CHECKING:
    from torch import Tensor

    from graphprune.distill.module import OnnxModule, Use

__all__ = ["KINDS", "gradient_scores"]

Array = np.ndarray[Any, Any]
Loss = Callable[[Mapping[str, Any], int], Any]
"""From the outputs of one sample (tensors by name) and its number to a scalar tensor."""

KINDS = ("taylor", "fisher")

SAMPLES = 256
"""Samples at most: each takes a forward and a backward pass of its own."""


@dataclass(frozen=True, eq=False)
class _Slices:
    """Where the units of a group lie in one use of a weight.

    Attributes:
        use: The use.
        axes: The axes that tell units apart.
        units: Unit at each index of `axes` (row-major), the group's size where there is none.
    """

    use: Use
    axes: tuple[int, ...]
    units: Array

    def sums(self, values: Tensor, size: int) -> Tensor:
        """Sum over each unit's slice, `(size,)` in double precision."""
        import torch

        rest = [a for a in range(values.ndim) if a not in self.axes]
        rows = values.double().permute(*self.axes, *rest).reshape(self.units.size, -1).sum(1)
        total = torch.zeros(size + 1, dtype=torch.float64, device=rows.device)
        index = torch.from_numpy(self.units).to(rows.device)
        return total.index_add(0, index, rows)[:size].cpu()


def gradient_scores(
    model: ir.Model,
    graph: DependencyGraph,
    names: Sequence[str],
    weight: WeightOf,
    feeds: Sequence[Mapping[str, Array]],
    kind: str = "fisher",
    seed: int = 0,
    *,
    threads: int = 1,
    loss: Loss | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Array]:
    """Group name -> score of each unit (larger stays), in units of the loss in every group.

    Groups that no weight reads are scored over all their weights; groups without a weight that has
    a gradient by the L2 norm, scaled to the mean of the others.

    Args:
        model: Canonical, in single precision.
        graph: Its analysis.
        names: Groups to score.
        weight: Contents of initializers.
        feeds: Batches of inputs; at most `SAMPLES` samples are looked at.
        kind: `fisher` or `taylor`.
        seed: Of the random signs and of the choice of samples.
        threads: Of torch.
        loss: The user's own; None: as described above. Samples are numbered in the order of `feeds`.
        progress: Called with the share that is done.

    Raises:
        UsageError: torch is missing, no such kind, no output that varies, or gradients that are not
            finite.
        UnsupportedModelError: An op that cannot be differentiated here, by name.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown gradient score '{kind}': choose one of {', '.join(KINDS)}")
    need_torch(f"criterion '{kind}'")
    import torch

    groups = [graph.by_name[name] for name in names]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = _collect(model, graph, groups, feeds, kind, seed, loss, progress)
    finally:
        torch.set_num_threads(before)
    without = [g for g in groups if g.name not in found]
    level = float(np.mean([v.mean() for v in found.values()])) if found else 1.0
    by_norm = scores(without, weight, "l2", seed)
    return {**found, **{name: level * values for name, values in by_norm.items()}}


def _collect(
    model: ir.Model,
    graph: DependencyGraph,
    groups: Sequence[Group],
    feeds: Sequence[Mapping[str, Array]],
    kind: str,
    seed: int,
    loss: Loss | None,
    progress: Callable[[float], None] | None,
) -> dict[str, Array]:
    import torch

    from graphprune.distill.module import OnnxModule
    from graphprune.distill.teacher import tensors

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = OnnxModule(model).to(device).requires_grad_(False)
    slices = {g.name: s for g in groups if (s := _slices(module, graph, g))}
    leaves = {part.use: module.operand(part.use) for found in slices.values() for part in found}
    leaves = {use: w.detach().clone().requires_grad_() for use, w in leaves.items()}
    if not leaves:
        return {}
    samples = samples_of(model, feeds)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(samples))[:SAMPLES])
    outputs = outputs_of(model) if loss is None else None
    scale = {} if outputs is None else scale_of(module, outputs, [samples[i] for i in chosen])
    signs = torch.Generator().manual_seed(seed)
    totals = {name: torch.zeros(graph.by_name[name].size, dtype=torch.float64) for name in slices}
    for count, i in enumerate(chosen):
        values = module(tensors(samples[i], device), outputs, leaves)
        if loss is None:
            target = projected(values, scale, signs)
        else:
            target = loss(values, int(i))
        gradients = torch.autograd.grad(target, list(leaves.values()), allow_unused=True)
        products = {
            use: leaf.detach() * g
            for (use, leaf), g in zip(leaves.items(), gradients, strict=True)
            if g is not None
        }
        for name, parts in slices.items():
            size = totals[name].numel()
            total = sum(p.sums(products[p.use], size) for p in parts if p.use in products)
            moved = torch.as_tensor(total, dtype=torch.float64)
            totals[name] += moved.abs() if kind == "taylor" else moved.square()
        if progress is not None:
            progress((count + 1) / len(chosen))
    if not all(bool(torch.isfinite(t).all()) for t in totals.values()):
        raise UsageError(f"criterion '{kind}': gradients on these inputs are not finite")
    part = 0.5 if loss is not None and kind == "fisher" else 1.0
    return {name: (part * total / len(chosen)).numpy() for name, total in totals.items()}


def _slices(module: OnnxModule, graph: DependencyGraph, group: Group) -> tuple[_Slices, ...]:
    """The weights that read the units of a group; all its weights where none reads.

    A use reads where the node's results do not carry the unit any more; a square weight of one
    residual width, which also writes it, counts as reading.
    """
    own = set(group.units.tolist())
    nodes = {m.site.node for m in group.members}
    written: set[str] = set()
    for site in graph.sites:
        if not site.is_weight and site.node in nodes:
            classes = (r.classes.reshape(-1).tolist() for r in graph.resolved(site))
            if any(own.intersection(c) for c in classes):
                written.add(site.node)
    axes: dict[int, set[int]] = {}
    for member in group.members:
        axes.setdefault(id(member.site), set()).add(member.axis)
    reading: list[_Slices] = []
    others: list[_Slices] = []
    for member in group.members:
        site = member.site
        use = (site.node, site.input)
        if not site.is_weight or module.operand_or_none(use) is None:
            continue
        units = units_at(group, member).astype(np.int64)
        found = _Slices(use, member.resolved.axes, np.where(units < 0, group.size, units))
        reads = site.node not in written or len(axes[id(site)]) > 1
        (reading if reads else others).append(found)
    return tuple(reading or others)
