"""What compensation did, for those who read the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DriftReport:
    """What compensation did, and how far the outputs then are from the original's.

    Attributes:
        samples: Calibration samples or feeds that were used.
        held_out: Of these, how many the drift was measured on; nothing was fitted to them.
        refitted: How many layers were refitted.
        kept: Layers that were left because no refit lowered the error on held-out inputs.
        left: Layers behind a cut that are of a kind that is not refitted.
        uncompensated: Per output `name`, `max_abs`, `relative`, `cosine` before compensation.
        outputs: The same afterwards.
    """

    samples: int
    held_out: int
    refitted: int
    kept: int
    left: tuple[str, ...]
    uncompensated: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
