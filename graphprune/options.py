"""What a user can say to `compile`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from typing import Any

from graphprune.errors import UsageError

CRITERIA = ("auto", "l1", "l2", "lP (e.g. l0.5, l3)", "fpgm", "bn-scale", "random")
"""How units are ranked by weights alone; `auto` is the best known: `l2`, or with data `BEST_WITH_DATA`."""

GRADIENT_CRITERIA = ("taylor", "fisher")
"""How units are ranked by gradients on calibration inputs (`graphprune.distill.scores`; torch)."""

DATA_CRITERIA = ("energy", "activation", "wanda", "flap", "apoz", *GRADIENT_CRITERIA)
"""How units are ranked by calibration inputs of an ONNX model (`graphprune.scoring`)."""

BEST_WITH_DATA = "energy"
"""What `auto` is with calibration inputs (docs/accuracy-criteria.md)."""

LAYER_CRITERIA = ("damage", "cosine")
"""How whole layers are ranked (`graphprune.damage.layers`)."""

AUTO = "auto"

SCOPES = ("local", "global", "sensitivity")
BUDGETS = ("channels", "params", "macs", "latency", "latency_ms")


def norm_order(criterion: str) -> float | None:
    """The P of criterion `l<P>`; None for those that are called by a name.

    Raises:
        UsageError: Unknown criterion.
    """
    if criterion in (*CRITERIA[4:], *DATA_CRITERIA):
        return None
    if criterion == "auto":
        return 2.0
    found = re.fullmatch(r"l(\d+(?:\.\d+)?)", str(criterion))
    if not found or float(found[1]) <= 0:
        known = ", ".join((*CRITERIA, *DATA_CRITERIA))
        raise UsageError(f"unknown criterion '{criterion}': choose one of {known}")
    return float(found[1])


@dataclass(frozen=True)
class Options:
    """Options of `graphprune.compile`; every ratio is the fraction that remains.

    Attributes:
        channels: Of each prunable group.
        params: Of the model's parameters, at most.
        macs: Of the model's multiply-adds, at most.
        latency: Of the model's time in onnxruntime, measured. With `params` and `macs` all must hold.
        latency_ms: The same, as milliseconds.
        align: Grid of physical widths: a number, or `auto`.
        criterion: `auto`, `l1`, `l2`, `l<P>`, `fpgm`, `bn-scale`, `random`; with `calib` also `energy`,
            `activation`, `wanda`, `flap`, `apoz` (`graphprune.scoring`), `taylor`, `fisher`
            (`graphprune.distill.scores`, needs torch). `auto` is the best that was
            measured: `l2` without data, with data `BEST_WITH_DATA`.
        scope: `local` (the same ratio everywhere), `global` (one threshold over the model) or
            `sensitivity` (widths of least summed damage, which is measured group by group).
        ratios_from: A file of `graphprune sensitivity`, whose damage curves set the widths.
        latency_table: File that keeps what nodes take: read where it exists, else measured and written.
        max_divergence: Keep the outputs within this relative error of the original's on held-out
            calibration inputs, with as few multiply-adds as that allows.
        max_drop: Keep the metric of `eval` within this of the original's, the same way.
        heads: Of each attention's heads; None: as `channels`.
        head_dims: Of the dimensions inside heads; None: they are left.
        layers: Of the model's whole layers and residual blocks, before anything inside of layers
            leaves; or `auto`: as few leave as `macs` and `params` ask for, and widths stay.
        layer_criterion: `damage`: to the outputs when the layer is missing, measured anew after each
            that leaves. `cosine`: between what comes into a layer and what goes out.
        linear_layers: Put a linear map in place of a layer that leaves; with `calib` it is fitted.
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
        calib: Calibration inputs: array files, a folder of them or of images, a text file,
            `module:callable`, `zoo:NAME`, `random`, or from Python arrays, feeds or a callable
            (`graphprune.data.source`). With them the layers behind a cut are refitted.
        calib_samples: As many of them at most.
        calib_images: How images become inputs: `size=224,mean=0.485:0.456:0.406,...`
            (`graphprune.data.images`).
        tokenizer: The tokenizer.json for a text file.
        max_length: Tokens of one text at most; None: what the model or the tokenizer says, else 128.
        eval: The user's metric, higher is better: `module:callable` or a callable, called with an
            onnxruntime session of a model (`graphprune.data.metric`).
        distill: Minutes of training to give what the original gives on the calibration inputs, after
            the refit (`graphprune.distill`; needs torch).
        distill_checkpoint: Folder from which an interrupted training goes on.
        allow_slower: Return a slower model, or an unchanged one, without an error.
    """

    channels: float | None = None
    params: float | None = None
    macs: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    align: int | str = "auto"
    criterion: str = "auto"
    scope: str = "local"
    heads: float | None = None
    head_dims: float | None = None
    layers: float | str | None = None
    layer_criterion: str = "damage"
    linear_layers: bool = False
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
    calib_images: str | None = None
    tokenizer: str | PathLike[str] | None = None
    max_length: int | None = None
    eval: Any = field(default=None, compare=False)
    distill: float | None = None
    distill_checkpoint: str | PathLike[str] | None = None
    ratios_from: str | PathLike[str] | None = None
    latency_table: str | PathLike[str] | None = None
    max_divergence: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("only", "exclude"):
            given = getattr(self, name)
            globs = (given,) if isinstance(given, str) else tuple(given)
            object.__setattr__(self, name, globs)
        pairs = self.group_ratio
        pairs = tuple(pairs.items()) if isinstance(pairs, Mapping) else tuple(pairs)
        object.__setattr__(self, "group_ratio", pairs)
        ratios = {"channels": self.channels, "params": self.params, "macs": self.macs}
        ratios |= {"heads": self.heads, "head_dims": self.head_dims, "latency": self.latency}
        for glob, share in self.group_ratio:
            if not 0 <= share <= 1:
                raise UsageError(
                    f"group_ratio of {glob!r} is the fraction that remains: {share} is not from "
                    "0 (all of it leaves) to 1"
                )
        if self.layers != AUTO:
            ratios["layers"] = _ratio(self.layers)
        for name, ratio in ratios.items():
            if ratio is not None and not 0 < ratio <= 1:
                raise UsageError(
                    f"{name} is the fraction that remains: {ratio} is not above 0 and at most 1"
                )
        budgets = [n for n in BUDGETS if getattr(self, n) is not None]
        if self.channels is not None and len(budgets) > 1:
            raise UsageError(f"give one of {' and '.join(budgets)}, not several")
        if self.latency is not None and self.latency_ms is not None:
            raise UsageError("give one of latency and latency_ms, not both")
        for name in ("latency_ms", "max_divergence", "max_drop", "distill"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UsageError(f"{name} {getattr(self, name)} is out of range: above 0")
        if self.max_drop is not None and self.max_divergence is not None:
            raise UsageError("give one of max_drop and max_divergence, not both")
        self._check_measured()
        self._check_layers()
        norm_order(self.criterion)
        if self.criterion in DATA_CRITERIA and self.calib is None:
            raise UsageError(
                f"criterion '{self.criterion}' needs calibration inputs of an ONNX model: give calib "
                "(--calib); for a torch module there is scores=GradientScores(...)"
            )
        check_reading(self.calib, self.calib_images, self.tokenizer, self.max_length)
        if self.scope not in SCOPES:
            raise UsageError(f"scope '{self.scope}' is unknown: choose one of {', '.join(SCOPES)}")
        if self.align != "auto" and (not isinstance(self.align, int) or self.align < 1):
            raise UsageError(f"align '{self.align}' is neither 'auto' nor a number of channels")
        for name, least in (("threads", 1), ("seed", 0), ("calib_samples", 8)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)} is out of range: at least {least}")

    def _check_measured(self) -> None:
        """What has to be measured needs something to measure with. Raises UsageError."""
        timed = self.latency is not None or self.latency_ms is not None
        if self.latency_table is not None and not timed:
            raise UsageError("latency_table is for a latency budget: give latency, too")
        if self.scope == "sensitivity" and self.calib is None and self.ratios_from is None:
            raise UsageError(
                "scope 'sensitivity' needs calibration inputs to measure damage on: give calib "
                "(--calib), or ratios_from with what graphprune sensitivity has measured"
            )
        if self.max_drop is not None and self.eval is None:
            raise UsageError("max_drop is of your own metric: give eval (--eval module:callable)")
        if self.distill is not None and self.calib is None:
            raise UsageError("distillation learns from calibration inputs: give calib (--calib)")
        if self.distill_checkpoint is not None and self.distill is None:
            raise UsageError("distill_checkpoint is of a distillation: give distill, too")
        if self.max_divergence is not None and self.calib is None:
            raise UsageError(
                "max_divergence is measured on calibration inputs: give calib (--calib)"
            )

    def _check_layers(self) -> None:
        if self.layer_criterion not in LAYER_CRITERIA:
            known = ", ".join(LAYER_CRITERIA)
            raise UsageError(
                f"layer_criterion '{self.layer_criterion}' is unknown: choose one of {known}"
            )
        if self.layers == AUTO and self.macs is None and self.params is None:
            raise UsageError(
                "layers 'auto' takes as many out as a budget asks for: give macs or params"
            )
        if self.linear_layers and self.layers is None:
            raise UsageError("linear_layers stand in place of layers that leave: give layers, too")

    @property
    def says_what_stays(self) -> bool:
        """Whether anything is to be pruned at all."""
        given = (
            *BUDGETS,
            "layers",
            "heads",
            "head_dims",
            "max_divergence",
            "max_drop",
            "group_ratio",
        )
        return any(getattr(self, name) for name in given)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the report."""
        names = ("calib", "eval", "tokenizer", "ratios_from", "latency_table", "distill_checkpoint")
        texts = {name: _text(getattr(self, name)) for name in names}
        plain = asdict(replace(self, **texts))  # type: ignore[arg-type]
        return {**plain, "group_ratio": [list(p) for p in self.group_ratio]}


def check_reading(
    calib: Any,
    calib_images: str | None,
    tokenizer: str | PathLike[str] | None,
    max_length: int | None,
) -> None:
    """How calibration inputs are read says something only where there are some.

    Raises:
        UsageError: There are none, or `max_length` is below 1.
    """
    how = {"calib_images": calib_images, "tokenizer": tokenizer, "max_length": max_length}
    for name, given in how.items():
        if given is not None and calib is None:
            raise UsageError(f"{name} says how calibration inputs are read: give calib, too")
    if max_length is not None and max_length < 1:
        raise UsageError(f"max_length {max_length} is out of range: at least 1")


def _ratio(given: float | str | None) -> float | None:
    try:
        return None if given is None else float(given)
    except ValueError:
        raise UsageError(f"layers is the fraction that remains, or 'auto', not {given!r}") from None


def _text(given: Any) -> str | None:
    """A source by its name: arrays and callables do not go into a report."""
    if given is None or isinstance(given, str):
        return given
    return str(given) if isinstance(given, PathLike) else "given in memory"
