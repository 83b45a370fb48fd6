"""The one line for those who did not install torch."""

from __future__ import annotations

from importlib.util import find_spec

from graphprune.errors import UsageError


def need_torch(what: str) -> None:
    """Raises UsageError where torch is not installed.

    Args:
        what: What needs it, as the user calls it.
    """
    import sys

    blocked = "torch" in sys.modules and sys.modules["torch"] is None
    if blocked or ("torch" not in sys.modules and find_spec("torch") is None):
        raise UsageError(f"{what} needs torch: pip install graphprune[torch]")
