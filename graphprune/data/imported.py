"""`module:callable` of the user, looked up as if python were started in the current folder."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from graphprune.errors import UsageError


def import_callable(source: str, what: str) -> Callable[..., Any]:
    """The callable that `module:callable` names.

    Args:
        source: What the user wrote.
        what: What a message calls it.

    Raises:
        UsageError: It cannot be imported, or is no callable.
    """
    module, _, name = source.rpartition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything
        raise UsageError(
            f"cannot import {what} {source}: {type(error).__name__}: {line_of(error)}"
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"{what} {source} is no callable")
    return found  # type: ignore[no-any-return]


def line_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or "no message"
