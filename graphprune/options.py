"""What a user can say to `compile`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from typing import Any

from graphprune.errors import UsageError

CRITERIA = ("l1", "l2", "lP (e.g. l0.5, l3)", "fpgm", "bn-scale", "random", "energy")


def norm_order(criterion: str) -> float | None:
    """The P of criterion `l<P>`; None for those that are called by a name.

    Raises:
        UsageError: Unknown criterion.
    """
    if criterion in CRITERIA[3:]:
        return None
    found = re.fullmatch(r"l(\d+(?:\.\d+)?)", str(criterion))
    if not found or float(found[1]) <= 0:
        raise UsageError(f"unknown criterion '{criterion}': choose one of {', '.join(CRITERIA)}")
    return float(found[1])


@dataclass(frozen=True)
class Options:
    """Options of `graphprune.compile`; every ratio is the fraction that remains.

    Attributes:
        channels: Of each prunable group.
        params: Of the model's parameters, at most.
        macs: Of the model's multiply-adds, at most.
        align: Grid of physical widths: a number, or `auto`.
        criterion: `l1`, `l2`, `l<P>`, `fpgm`, `bn-scale`, `random`, or `energy` (with `calib`: what the
            layers that read a unit lose).
        scope: `local` (the same ratio everywhere) or `global` (one threshold over the model).
        heads: Of each attention's heads; None: as `channels`.
        head_dims: Of the dimensions inside heads; None: they are left.
        residual: Include residual widths that run through LayerNorm or RMSNorm.
        only: Globs (or one): leave all groups that none of them names.
        exclude: Globs (or one) of groups to leave.
        group_ratio: (glob, ratio) of single groups, or a mapping; the last that matches decides. At
            ratio 0 the whole group leaves, and with it the branch or block that it belongs to.
        dims: Sizes of dynamic dimensions for analysis, verification and timing.
        provider: onnxruntime execution provider.
        threads: onnxruntime's intra-op threads.
        seed: Of random inputs and the random criterion.
        bench: Time both models.
        verify: Prove the result.
        calib: Calibration inputs: files, a folder, `module:callable`, or from Python arrays, feeds
            or a callable (`graphprune.data.source`). With them the layers behind a cut are refitted.
        calib_samples: As many of them at most.
        allow_slower: Return a slower model, or an unchanged one, without an error.
    """

    channels: float | None = None
    params: float | None = None
    macs: float | None = None
    align: int | str = "auto"
    criterion: str = "l2"
    scope: str = "local"
    heads: float | None = None
    head_dims: float | None = None
    residual: bool = False
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    group_ratio: tuple[tuple[str, float], ...] = ()
    dims: Mapping[str, int] = field(default_factory=dict)
    provider: str = "CPUExecutionProvider"
    threads: int = 1
    seed: int = 0
    bench: bool = True
    verify: bool = True
    allow_slower: bool = False
    calib: Any = field(default=None, compare=False)
    calib_samples: int = 256

    def __post_init__(self) -> None:
        for name in ("only", "exclude"):
            given = getattr(self, name)
            globs = (given,) if isinstance(given, str) else tuple(given)
            object.__setattr__(self, name, globs)
        pairs = self.group_ratio
        pairs = tuple(pairs.items()) if isinstance(pairs, Mapping) else tuple(pairs)
        object.__setattr__(self, "group_ratio", pairs)
        ratios = {"channels": self.channels, "params": self.params, "macs": self.macs}
        ratios |= {"heads": self.heads, "head_dims": self.head_dims}
        for glob, share in self.group_ratio:
            if not 0 <= share <= 1:
                raise UsageError(
                    f"group_ratio of {glob!r} is the fraction that remains: {share} is not from "
                    "0 (all of it leaves) to 1"
                )
        for name, ratio in ratios.items():
            if ratio is not None and not 0 < ratio <= 1:
                raise UsageError(
                    f"{name} is the fraction that remains: {ratio} is not above 0 and at most 1"
                )
        budgets = [n for n in ("channels", "params", "macs") if ratios[n] is not None]
        if len(budgets) > 1:
            raise UsageError(f"give one of {' and '.join(budgets)}, not several")
        norm_order(self.criterion)
        if self.criterion == "energy" and self.calib is None:
            raise UsageError("criterion 'energy' needs calibration inputs: give calib (--calib)")
        if self.scope not in ("local", "global"):
            raise UsageError(f"scope '{self.scope}' is neither 'local' nor 'global'")
        if self.align != "auto" and (not isinstance(self.align, int) or self.align < 1):
            raise UsageError(f"align '{self.align}' is neither 'auto' nor a number of channels")
        for name, least in (("threads", 1), ("seed", 0), ("calib_samples", 8)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)} is out of range: at least {least}")

    @property
    def says_what_stays(self) -> bool:
        """Whether anything is to be pruned at all."""
        return any(
            (self.channels, self.params, self.macs, self.heads, self.head_dims, self.group_ratio)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the report."""
        calib = self.calib  # arrays and callables do not go into a report
        if calib is not None and not isinstance(calib, str):
            calib = str(calib) if isinstance(calib, PathLike) else "given in memory"
        plain = asdict(replace(self, calib=calib))
        return {**plain, "group_ratio": [list(p) for p in self.group_ratio]}
