"""What pruning of single weights and packing report: plain figures, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from graphprune.selection.empty import EmptyGroup

if TYPE_CHECKING:
    from graphprune.measure.latency import Latency


@dataclass(frozen=True)
class SparseWeight:
    """One weight afterwards.

    Attributes:
        name: Of the initializer.
        layers: That use it.
        shape: Of it.
        sparsity: Share of zeros.
        dense: Bytes as it is stored in the model.
        stored: Bytes in its cheapest format.
        format: Which that is (`graphprune.sparse.formats`).
    """

    name: str
    layers: tuple[str, ...]
    shape: tuple[int, ...]
    sparsity: float
    dense: int
    stored: int
    format: str


@dataclass(frozen=True)
class SparsityReport:
    """What pruning of single weights did.

    Attributes:
        source: The model.
        options: What was asked for.
        weights: Each weight that was pruned.
        elements: Of all these.
        zeros: Of all these.
        latency: Before and after, timed against each other; None where that was not asked for.
        empty: Groups with units of which nothing is left.
        warnings: What the user should know.
    """

    source: str
    options: Mapping[str, Any]
    weights: tuple[SparseWeight, ...]
    elements: int
    zeros: int
    latency: Latency | None
    empty: tuple[EmptyGroup, ...]
    warnings: tuple[str, ...]

    @property
    def sparsity(self) -> float:
        """Share of zeros over all pruned weights."""
        return self.zeros / self.elements

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        dense, stored = (sum(getattr(w, k) for w in self.weights) for k in ("dense", "stored"))
        return {
            "source": self.source,
            "options": dict(self.options),
            "sparsity": self.sparsity,
            "elements": self.elements,
            "zeros": self.zeros,
            "dense_bytes": dense,
            "stored_bytes": stored,
            "weights": [asdict(w) for w in self.weights],
            "latency": None if self.latency is None else self.latency.to_json(),
            "empty_units": sum(len(e.units) for e in self.empty),
            "empty": [asdict(e) for e in self.empty],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class TensorSize:
    """How one tensor is stored.

    Attributes:
        name: Of the tensor.
        dtype: Of its elements.
        shape: Of the tensor, or of its first piece.
        formats: Of its pieces, each once.
        elements: How many.
        nonzero: How many are not zero.
        dense: Bytes in the model.
        stored: Bytes in the pack.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    formats: tuple[str, ...]
    elements: int
    nonzero: int
    dense: int
    stored: int


@dataclass(frozen=True)
class PackReport:
    """What a pack holds.

    Attributes:
        files: Locations of the restored files; empty for the model itself.
        original: Bytes of all files.
        packed: Bytes of the pack.
        tensors: Every tensor of 64 bytes or more.
    """

    files: tuple[str, ...]
    original: int
    packed: int
    tensors: tuple[TensorSize, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "files": list(self.files),
            "original_bytes": self.original,
            "packed_bytes": self.packed,
            "ratio": self.packed / self.original if self.original else 1.0,
            "tensors": [
                {
                    "name": t.name,
                    "dtype": t.dtype,
                    "shape": list(t.shape),
                    "formats": list(t.formats),
                    "sparsity": 1 - t.nonzero / max(1, t.elements),
                    "dense_bytes": t.dense,
                    "stored_bytes": t.stored,
                }
                for t in self.tensors
            ],
        }
