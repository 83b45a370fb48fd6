"""graphprune: structured pruning as a compiler for ONNX graphs."""

from __future__ import annotations

__version__ = "0.1.0"
