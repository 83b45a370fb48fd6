"""The registry of rules for ATen ops, and how a rule is registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphprune.rules.registry import MacRule, OpRule, Registry, ResizeRule, no_macs, no_resize

if TYPE_CHECKING:
    from graphprune.torch.context import AtenContext

DOMAIN = "aten"
aten = Registry()

LabelRule = Callable[["AtenContext"], None]


def aten_rule(
    *ops: str,
    macs: MacRule = no_macs,
    resize: ResizeRule | Callable[[Any], None] = no_resize,
    boundary: str = "",
    domain: str = DOMAIN,
) -> Callable[[LabelRule], LabelRule]:
    """Register the decorated label rule for `ops`, named without overload (`conv2d`).

    Args:
        ops: Names within `domain`.
        macs: Multiply-adds, from a `Call` and a function that gives the shape of a value.
        resize: Says what literal sizes become.
        boundary: Not empty where the rule always pins: the reason.
        domain: Namespace, e.g. `torchvision`.

    >>> @aten_rule("swish", domain="my_library")
    ... def swish(ctx):
    ...     from graphprune.rules.shared.elementwise import pointwise
    ...     pointwise(ctx)
    """

    def register(rule: LabelRule) -> LabelRule:
        for op in ops:
            aten.add(OpRule(domain, op, 1, rule, macs, resize, boundary))
        return rule

    return register


def aten_boundary(*ops: str, reason: str, domain: str = DOMAIN) -> None:
    """Register `ops` as boundaries: nothing leaves through them, for `reason`."""

    def pin_all(ctx: AtenContext) -> None:
        ctx.boundary(reason)

    for op in ops:
        aten.add(OpRule(domain, op, 1, pin_all, boundary=reason))


def user_rule(
    op: str,
    *,
    macs: MacRule = no_macs,
    resize: ResizeRule = no_resize,
) -> Callable[[LabelRule], LabelRule]:
    """Register the decorated rule for an op of your own, named `namespace::op`.

    >>> import graphprune.torch
    >>> @graphprune.torch.op_rule("my_library::swish")
    ... def swish(ctx):
    ...     from graphprune.rules.shared.elementwise import pointwise
    ...     pointwise(ctx)
    """
    domain, _, name = op.rpartition("::")
    return aten_rule(name, macs=macs, resize=resize, domain=domain or DOMAIN)
