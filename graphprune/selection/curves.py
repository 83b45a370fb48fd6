"""Damage curves: how much a model loses when one group alone keeps a fraction of its units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_LEAST, _MOST = 1e-9, 1e9
"""Damage outside of these is none, or all the same: curves are interpolated by their logarithm."""


@dataclass(frozen=True)
class Curve:
    """Measured damage of one group alone.

    Attributes:
        kept: Fractions of its units that stayed, ascending, all below 1 (at 1 nothing is lost).
        damage: What the model lost at each: relative squared error of its outputs.
    """

    kept: tuple[float, ...]
    damage: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = sorted(zip(self.kept, self.damage, strict=True))
        bounded = [min(d, _MOST) if d == d else _MOST for _, d in reversed(pairs)]
        worst = np.maximum.accumulate(bounded)[::-1]
        object.__setattr__(self, "kept", tuple(k for k, _ in pairs))
        object.__setattr__(self, "damage", tuple(float(d) for d in worst))

    def at(self, fraction: float) -> float:
        """Damage at a fraction kept.

        Between two points its logarithm is a straight line; from the last point to 1 the damage
        itself is one; below the first it goes on as steeply as it came.
        """
        if fraction >= 1 or not self.kept:
            return 0.0
        kept, damage = np.array(self.kept), np.array(self.damage)
        if fraction >= kept[-1]:
            share = (1 - fraction) / max(1 - kept[-1], 1e-12)
            return float(damage[-1] * share)
        logs = np.log(np.maximum(damage, _LEAST))
        if fraction < kept[0]:
            slope = 0.0
            if len(kept) > 1:
                slope = min(0.0, float((logs[1] - logs[0]) / (kept[1] - kept[0])))
            steep = float(logs[0]) + slope * (fraction - kept[0])
            return float(np.exp(min(steep, np.log(_MOST))))
        return float(np.exp(np.interp(fraction, kept, logs)))


Curves = Mapping[str, Curve]
"""Group name -> its curve."""
