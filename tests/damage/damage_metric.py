"""A metric that `module:callable` names."""

from __future__ import annotations

from typing import Any

import numpy as np
from damage_nets import data, mlp

from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session

_X = data(200, seed=77)


def _labels() -> Any:
    with Session(canonicalise(load(mlp()).model)) as session:
        return session.run({"x": _X})["y"].argmax(1)


_wanted = _labels()


def agreement(session: Any) -> float:
    """How often a model chooses what the original chooses."""
    return float(np.mean(session.run(None, {"x": _X})[0].argmax(1) == _wanted))
