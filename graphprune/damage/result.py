"""What a sensitivity analysis found, as a file and as damage curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from graphprune.errors import UsageError
from graphprune.files import write_atomically
from graphprune.selection.curves import Curve

FORMAT = 1


@dataclass(frozen=True)
class Measurement:
    """One group alone at one width.

    Attributes:
        group: Its name.
        kept: Fraction of its units that stayed.
        counts: Units kept of each of its cells.
        damage: Relative squared error of the outputs as cut; None where it cannot be cut there.
        folded: The same with compensation in closed form.
        quality: The user's metric as cut, where there is one.
        quality_folded: The same with compensation.
    """

    group: str
    kept: float
    counts: tuple[int, ...]
    damage: float | None = None
    folded: float | None = None
    quality: float | None = None
    quality_folded: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """Damage of every group alone.

    Attributes:
        source_sha256: Of the model.
        sizes: Units of each group.
        measurements: By group and width.
        quality: The user's metric of the original, where there is one.
        settings: How it was measured, for the reader and for resuming.
    """

    source_sha256: str
    sizes: Mapping[str, int]
    measurements: tuple[Measurement, ...]
    quality: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def curves(self) -> dict[str, Curve]:
        """Damage curves by group: those with compensation, where they were measured.

        With a metric, damage is what it fell by, plus the damage of the outputs as a tie-break.
        """
        points: dict[str, list[tuple[float, float]]] = {}
        for each in self.measurements:
            damage = each.damage if each.folded is None else each.folded
            if damage is None:
                continue
            quality = each.quality if each.folded is None else each.quality_folded
            if quality is not None and self.quality is not None:
                damage = max(0.0, self.quality - quality) + 1e-3 * damage
            points.setdefault(each.group, []).append((each.kept, damage))
        found = {}
        for group, pairs in points.items():
            kept, damage_of = zip(*pairs, strict=True)
            found[group] = Curve(kept, damage_of)
        return found

    def dumps(self) -> str:
        """JSON, the same bytes for the same measurements."""
        data = {
            "format": FORMAT,
            "source_sha256": self.source_sha256,
            "settings": dict(sorted(self.settings.items())),
            "quality": self.quality,
            "groups": dict(self.sizes),
            "measurements": [_plain(m) for m in self.measurements],
        }
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file; whole or not at all."""
        write_atomically(Path(path), lambda f: f.write(self.dumps().encode()))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Sensitivity:
        """Read a file. Raises UsageError where it is missing, damaged or none of ours."""
        try:
            return cls.loads(Path(path).read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is no file of graphprune sensitivity") from error

    @classmethod
    def loads(cls, text: str, name: str = "the text") -> Sensitivity:
        """From `dumps`. Raises UsageError where it is something else."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise UsageError(f"{name} has format {data['format']}, this version reads {FORMAT}")
            return cls(
                source_sha256=data["source_sha256"],
                sizes={str(n): int(s) for n, s in data["groups"].items()},
                measurements=tuple(Measurement(**_read(m)) for m in data["measurements"]),
                quality=_number(data["quality"]),
                settings=dict(data["settings"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{name} is no file of graphprune sensitivity") from error


_FIGURES = ("damage", "folded", "quality", "quality_folded")


def _plain(measured: Measurement) -> dict[str, Any]:
    """As JSON knows it, which has no infinity."""
    data = asdict(measured)
    return {**data, **{n: "inf" if data[n] == float("inf") else data[n] for n in _FIGURES}}


def _read(data: Mapping[str, Any]) -> dict[str, Any]:
    figures = {n: _number(data[n]) for n in _FIGURES}
    counts = tuple(int(c) for c in data["counts"])
    return {**data, **figures, "kept": float(data["kept"]), "counts": counts}


def _number(given: Any) -> float | None:
    return None if given is None else float(given)
