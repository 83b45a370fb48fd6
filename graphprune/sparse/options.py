"""What is asked for of single weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphprune.errors import UsageError
from graphprune.sparse.scores import DATA_DRIVEN, check_criterion

SCOPES = ("global", "local", "sensitivity")


@dataclass(frozen=True)
class Sparsity:
    """What to prune of single weights.

    Attributes:
        sparsity: The share of zeros over all weights that are pruned, 0 < S < 1; None with a
            pattern, which says it.
        scope: `global` (one threshold over all layers), `local` (the same share of each; with
            `wanda` of each output) or `sensitivity` (shares of least damage, see
            `graphprune.sparse.sensitivity`).
        criterion: See `graphprune.sparse.scores`.
        pattern: N:M, `2:4`: of every M elements in a row N stay.
        pattern_axis: Along which axis; None: the one that is summed over.
        only: Globs of initializers or layers; all others are left.
        exclude: Globs of initializers or layers to leave.
        seed: Of random scores and inputs.
    """

    sparsity: float | None = None
    scope: str = "global"
    criterion: str = "magnitude"
    pattern: str | None = None
    pattern_axis: int | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("only", "exclude"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise UsageError(
                f"sparsity {self.sparsity:g} is out of range: it is the share of zeros, 0 < S < 1"
            )
        if self.scope not in SCOPES:
            raise UsageError(f"scope '{self.scope}' is none of {', '.join(SCOPES)}")
        check_criterion(self.criterion)
        if self.pattern is None:
            if self.sparsity is None:
                raise UsageError("say how much to prune: sparsity (0.9) or pattern (2:4)")
            if self.pattern_axis is not None:
                raise UsageError("pattern_axis needs a pattern, for example 2:4")
        elif self.scope == "sensitivity":
            raise UsageError(
                f"pattern {self.pattern} says how much of every weight: leave out scope sensitivity"
            )
        elif self.sparsity is not None and abs(self.sparsity - 1 + self.n / self.m) > 1e-6:
            raise UsageError(
                f"pattern {self.pattern} gives sparsity {1 - self.n / self.m:g}: leave out sparsity"
            )

    @property
    def reads_data(self) -> bool:
        """Whether calibration inputs are looked at."""
        return self.criterion in DATA_DRIVEN or self.scope == "sensitivity"

    @property
    def n(self) -> int:
        """How many of `m` stay."""
        return self._pattern[0]

    @property
    def m(self) -> int:
        """The length of a group."""
        return self._pattern[1]

    @property
    def _pattern(self) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+):(\d+)", self.pattern or "")
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise UsageError(f"pattern '{self.pattern}' is not N:M with 0 < N < M, for example 2:4")
        return int(found[1]), int(found[2])
