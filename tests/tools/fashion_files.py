"""Fashion-MNIST's four files, small, made of what ships with the zoo."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from graphprune import zoo


def write_fashion(folder: Path, train: int, test: int) -> Path:
    """The first images of the zoo's evaluation set as training images, the next as test images."""
    whole = zoo.get("resnet-fashion").evaluation()
    for prefix, part in (("train", slice(0, train)), ("t10k", slice(train, train + test))):
        _idx(folder / f"{prefix}-images-idx3-ubyte.gz", 16, whole["images"][part])
        _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 8, whole["labels"][part].astype(np.uint8))
    return folder


def _idx(path: Path, header: int, array: np.ndarray[Any, Any]) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes(header) + array.tobytes())
