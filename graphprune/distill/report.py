"""What distillation did, for those who read the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DistillReport:
    """What training did. Errors are on held-out inputs, relative to the centred variance of what
    the original gives (0: the same; 1: no better than its mean).

    Attributes:
        steps: Steps that were made, earlier runs of a resumed one included.
        seconds: Time they took, likewise.
        samples: Inputs that were trained on.
        held_out: Inputs that judged.
        lr: Largest learning rate.
        batch: Samples in a step.
        device: `cpu` or `cuda`.
        matched: Values that were to be what they are in the original, outputs first.
        start: Error of the outputs before the first step.
        best: Error of the outputs of what is returned; never above `start`.
        best_step: After how many steps that was.
        skipped: Steps that were left out because gradients were not finite.
        history: `(step, seconds, error)` of each look at the held-out inputs.
    """

    steps: int
    seconds: float
    samples: int
    held_out: int
    lr: float
    batch: int
    device: str
    matched: tuple[str, ...]
    start: float
    best: float
    best_step: int
    skipped: int = 0
    history: tuple[tuple[int, float, float], ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self)
        return {**plain, "history": [list(entry) for entry in self.history]}
