"""What the comparison of tensors found, over one run or several."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphprune.certify.compare import Deviation


@dataclass(eq=False)
class Tally:
    """What one run found; merged over runs by `add`.

    Attributes:
        outputs: Deviation of each graph output.
        worst: The largest error of any tensor, (absolute, relative).
        alive: Tensors that agreed and whose values vary.
        lifeless: Tensors that agreed but prove nothing -> why.
        rounded: Nodes that were checked on the original's values -> why.
        not_finite: Tensors with NaN or Inf in both.
        uncompared: Tensors whose cut means nothing at the run's binding.
    """

    outputs: dict[str, Deviation] = field(default_factory=dict)
    worst: tuple[float, float] = (0.0, 0.0)
    alive: set[str] = field(default_factory=set)
    lifeless: dict[str, str] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    not_finite: set[str] = field(default_factory=set)
    uncompared: set[str] = field(default_factory=set)

    def note(self, name: str, found: Deviation, is_output: bool) -> None:
        """Record a tensor that agreed."""
        self.worst = (max(self.worst[0], found.max_abs), max(self.worst[1], found.max_rel))
        if is_output and (name not in self.outputs or found.max_rel >= self.outputs[name].max_rel):
            self.outputs[name] = found
        if found.not_finite:
            self.not_finite.add(name)
        if not found.lifeless:
            self.alive.add(name)
        elif is_output or not found.exact:  # a flag that is never raised is no surprise
            self.lifeless.setdefault(name, found.lifeless)

    def add(self, other: Tally) -> None:
        """Take in the findings of another run."""
        for name, found in other.outputs.items():
            if name not in self.outputs or found.max_rel >= self.outputs[name].max_rel:
                self.outputs[name] = found
        self.worst = (max(self.worst[0], other.worst[0]), max(self.worst[1], other.worst[1]))
        self.alive |= other.alive
        self.lifeless = {**other.lifeless, **self.lifeless}
        self.rounded = {**other.rounded, **self.rounded}
        self.not_finite |= other.not_finite
        self.uncompared |= other.uncompared
