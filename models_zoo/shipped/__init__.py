"""Trained models that ship with graphprune, each with labelled data and a figure of merit.

    from graphprune import zoo

    entry = zoo.get("resnet-fashion")
    entry.evaluate_file("smaller.onnx")

Licences and sources: NOTICE.md in this folder. How models and data were made: models_zoo/recipes.
"""

from __future__ import annotations

from graphprune.errors import UsageError
from graphprune.zoo.entries import ENTRIES
from graphprune.zoo.entry import ZooEntry

__all__ = ["ZooEntry", "get", "names"]


def names() -> list[str]:
    """What may follow `zoo:`."""
    return list(ENTRIES)


def get(name: str) -> ZooEntry:
    """The entry called `name`, with or without the prefix `zoo:`.

    Raises UsageError, which lists the names, for any other.
    """
    entry = ENTRIES.get(name.removeprefix("zoo:"))
    if entry is None:
        raise UsageError(f"no model {name!r} in the zoo: choose from {', '.join(ENTRIES)}")
    return entry
