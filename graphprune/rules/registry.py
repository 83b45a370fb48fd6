"""The registry of op rules, keyed by (domain, op, since_version)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprune.rules.context import Dims, OpContext
    from graphprune.rules.resize import Resize

LabelRule = Callable[[Any], None]
"""From an `OpContext`, or the context of another front end."""
MacRule = Callable[[Any, Any], int]
"""From a node and `Dims`."""
ResizeRule = Callable[[Any], None]
"""From a `Resize`, or what another front end has in its place."""


def no_macs(node: ir.Node, dims: Dims) -> int:
    """Everything that is not a contraction counts as free."""
    return 0


def no_resize(resize: Resize) -> None:
    """The op holds no sizes."""


@dataclass(frozen=True)
class OpRule:
    """What graphprune knows of one op.

    Attributes:
        domain: ONNX domain, `""` for ai.onnx.
        op: Op type.
        since: First opset of the domain that this rule is right for.
        labels: Pushes labels from the inputs to the outputs.
        macs: Multiply-adds, from shapes.
        resize: Says which attributes and operands hold sizes, and what they become.
        boundary: Not empty where the rule always pins: the reason.
    """

    domain: str
    op: str
    since: int
    labels: LabelRule
    macs: MacRule = no_macs
    resize: ResizeRule = no_resize
    boundary: str = ""


class Registry:
    """Rules by (domain, op); the newest whose `since` the model's opset reaches is taken."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], list[OpRule]] = {}

    def add(self, rule: OpRule) -> None:
        """Register; a rule of the same domain, op and since replaces the earlier one."""
        rules = self._rules.setdefault((rule.domain, rule.op), [])
        rules[:] = sorted(
            [r for r in rules if r.since != rule.since] + [rule], key=lambda r: r.since
        )

    def find(self, domain: str, op: str, version: int | None) -> OpRule | None:
        """The rule for an op in a model whose opset of `domain` is `version`."""
        domain = "" if domain == "ai.onnx" else domain
        fitting = [
            r for r in self._rules.get((domain, op), []) if version is None or r.since <= version
        ]
        return fitting[-1] if fitting else None

    def __iter__(self) -> Iterator[OpRule]:
        for key in sorted(self._rules):
            yield from self._rules[key]


registry = Registry()


def op_rule(
    domain: str,
    *ops: str,
    since: int = 1,
    macs: MacRule = no_macs,
    resize: ResizeRule = no_resize,
    boundary: str = "",
) -> Callable[[LabelRule], LabelRule]:
    """Register the decorated label rule for `ops` of `domain`.

    >>> from graphprune.rules.shared.elementwise import pointwise
    >>> @op_rule("my.domain", "Swish")
    ... def swish(ctx):
    ...     pointwise(ctx)
    """

    def register(rule: LabelRule) -> LabelRule:
        for op in ops:
            registry.add(OpRule(domain, op, since, rule, macs, resize, boundary))
        return rule

    return register


def boundary_rule(domain: str, *ops: str, reason: str, since: int = 1) -> None:
    """Register `ops` as boundaries: nothing leaves through them, for `reason`."""

    def pin_all(ctx: OpContext) -> None:
        ctx.boundary(reason)

    for op in ops:
        registry.add(OpRule(domain, op, since, pin_all, boundary=reason))
