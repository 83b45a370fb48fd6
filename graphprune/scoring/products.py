"""Dims over which two activations are multiplied: those of Q and K in the scores of attention.

No weight reads such a dim, and where a rotary embedding stands between the layers and the product, it
cannot be mixed with the others (`graphprune.compensation.rotation`): both dims of a pair leave, or
neither. What a pair adds to the scores is `q k' + p l'`, turned by an angle that depends on how far q
and k are apart; its energy over all of them is half of `(E[q^2] + E[p^2]) (E[k^2] + E[l^2])`, and of
single dims without rotation `E[q^2] E[k^2]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.groups import Group, Member
from graphprune.onnx.operands import attribute
from graphprune.scoring.statistics import Statistics
from graphprune.selection.criteria import units_at

Array = np.ndarray[Any, Any]

_PRODUCTS = ("MatMul", "FusedMatMul")


@dataclass(frozen=True, eq=False)
class Side:
    """One operand.

    Attributes:
        value: The activation.
        axes: Its axis of heads, where it has one, and that of dims.
    """

    value: str
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Product:
    """A product that sums over units of a group.

    Attributes:
        sides: Its operands.
        units: Unit at each head and dim, -1 for none: `(heads, dims)`.
    """

    sides: tuple[Side, Side]
    units: Array


def products_of(group: Group, uses: Mapping[str, list[tuple[ir.Node, int]]]) -> list[Product]:
    """Products of two activations that sum over units of the group.

    Args:
        group: Of the analysis of the model.
        uses: Activation -> nodes that read it, and as which input.
    """
    operands: dict[ir.Node, dict[int, Member]] = {}
    for member in group.members:
        if member.site.is_weight:
            continue
        for node, position in uses.get(member.site.name, ()):
            if node.op_type in _PRODUCTS and _summed(node, position, member) is not None:
                operands.setdefault(node, {})[position] = member
    found = []
    for node, sides in operands.items():
        if len(sides) == 2:
            product = _product(group, node, sides[0], sides[1])
            if product is not None:
                found.append(product)
    return found


def product_energy(
    size: int, products: Sequence[tuple[Product, Statistics, Statistics]]
) -> Array | None:
    """Energy of each unit in the products, relative to all of it; None without products."""
    if not products:
        return None
    result = np.zeros(size)
    for product, one, two in products:
        heads, dims = product.units.shape
        first, second = (_by_head(s.power, dims, heads) for s in (one, two))
        energy = np.zeros(size)
        for head in range(heads):  # a unit may be a pair: both of its dims on either side
            units = product.units[head]
            here = units >= 0
            ours, theirs = (
                np.bincount(units[here], weights=p[head][here], minlength=size)
                for p in (first, second)
            )
            energy += ours * theirs
        result += energy / (float(energy.sum()) or 1.0)
    return result


def _summed(node: ir.Node, position: int, member: Member) -> int | None:
    """The axis that a product sums over, where the units lie along it, each head for itself or not."""
    rank = len(member.site.shape)
    turned = bool(attribute(node, "transB" if position else "transA"))
    axis = rank - 1 if turned == bool(position) else rank - 2
    batched = attribute(node, "transBatchA") or attribute(node, "transBatchB")
    headed = rank == 4 and member.resolved.axes == (1, axis)
    along = member.resolved.axes == (axis,) or headed
    return axis if rank in (3, 4) and along and not batched else None


def _product(group: Group, node: ir.Node, one: Member, two: Member) -> Product | None:
    sides, units = [], []
    for position, member in enumerate((one, two)):
        axis = _summed(node, position, member)
        assert axis is not None
        shape = member.site.shape
        headed = len(shape) == 4
        found = units_at(group, member).reshape(-1, int(shape[axis]))
        sides.append(Side(member.site.name, (1, axis) if headed else (axis,)))
        units.append(np.broadcast_to(found, (int(shape[1]), int(shape[axis]))) if headed else found)
    heads = max(len(u) for u in units)
    if any(len(u) not in (1, heads) or u.shape[1] != units[0].shape[1] for u in units):
        return None
    first, second = (np.broadcast_to(u, (heads, u.shape[1])) for u in units)
    return Product((sides[0], sides[1]), first) if np.array_equal(first, second) else None


def _by_head(power: Array, dims: int, heads: int) -> Array:
    return np.broadcast_to(power.reshape(-1, dims), (heads, dims))
