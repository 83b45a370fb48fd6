"""Which ratio each group gets: options of the user, local or global scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from graphprune.analysis.groups import Group
from graphprune.plan import Unpruned

_FLOOR = 0.1


@dataclass(frozen=True)
class Policy:
    """What the user said about groups.

    Attributes:
        only: Globs; where given, other groups are left.
        exclude: Globs of groups to leave.
        group_ratio: (glob, ratio): the last that matches decides.
        residual: Include residual widths that run through LayerNorm or RMSNorm.
        heads: Ratio of groups of kind `head`; None: as all others.
        head_dims: Ratio of groups of kind `head-dim`; None: as all others.
        leave: Names of groups to leave without saying so: the caller tells why.
    """

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    group_ratio: tuple[tuple[str, float], ...] = ()
    residual: bool = False
    heads: float | None = None
    head_dims: float | None = None
    leave: frozenset[str] = frozenset()


def called(groups: Sequence[Group], glob: str) -> set[str]:
    """Names of the groups that a glob means.

    Those whose own name it matches; where there are none, all that run through a layer, node,
    tensor or initializer of that name (a layer that shares its group with others, or only reads).
    """
    own = {g.name for g in groups if named(g.name, glob)}
    return own or {g.name for g in groups if any(named(name, glob) for name in names(g))}


def names(group: Group) -> set[str]:
    """All that a glob can call a group by."""
    sites = [m.site for m in group.members]
    return {group.name, *(n for s in sites for n in (s.name, s.node, s.owner))}


def named(name: str, glob: str) -> bool:
    """Whether `glob` is `name` or matches it: names may hold `[` and `*` themselves."""
    return name == glob or fnmatchcase(name, glob)


def split(
    groups: Sequence[Group], policy: Policy
) -> tuple[list[Group], dict[str, float], list[Unpruned]]:
    """Groups the budget decides, groups with a ratio of their own, and what is left and why."""
    free: list[Group] = []
    own: dict[str, float] = {}
    left: list[Unpruned] = []
    groups = [g for g in groups if g.name not in policy.leave]
    excluded = {name for glob in policy.exclude for name in called(groups, glob)}
    only = {name for glob in policy.only for name in called(groups, glob)}
    ratios = {name: r for glob, r in policy.group_ratio for name in called(groups, glob)}
    for group in groups:
        if group.name in excluded:
            left.append(Unpruned(group.name, "excluded by --exclude", group.name))
        elif group.name in ratios:
            own[group.name] = ratios[group.name]
        elif policy.only and group.name not in only:
            left.append(Unpruned(group.name, "not named by --only", group.name))
        elif group.trunk and not policy.residual:
            norm = group.statistics[0] if group.statistics else group.name
            reason = (
                "a residual width that runs through normalisation is left alone; "
                "--residual includes it"
            )
            left.append(Unpruned(norm, reason, group.name))
        elif group.kind == "head" and policy.heads is not None:
            own[group.name] = policy.heads
        elif group.kind == "head-dim" and policy.head_dims is not None:
            own[group.name] = policy.head_dims
        else:
            free.append(group)
    return free, own, left


def local_ratios(groups: Sequence[Group], ratio: float) -> dict[str, float]:
    """The same ratio for every group."""
    return {g.name: ratio for g in groups}


def global_ratios(
    groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float
) -> dict[str, float]:
    """One threshold over all units of the model, with a floor so that no layer is emptied."""
    if not groups:
        return {}
    everything = np.sort(np.concatenate([scores[g.name] for g in groups]))[::-1]
    count = max(1, round(ratio * everything.size))
    threshold = everything[count - 1]
    result = {}
    for group in groups:
        kept = float((scores[group.name] >= threshold).mean())
        result[group.name] = min(1.0, max(kept, _FLOOR))
    return result
