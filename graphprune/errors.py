"""The errors a user can meet. Each carries the exit code that the command line documents.

The message of every error is one line that says what is wrong and what to do about it.
"""

from __future__ import annotations


class GraphpruneError(Exception):
    """Base of all errors graphprune raises on purpose; `exit_code` is the process exit code."""

    exit_code = 1


class UsageError(GraphpruneError):
    """A wrong option, a ratio out of range, a missing or unwritable file."""

    exit_code = 2


class UnsupportedModelError(GraphpruneError):
    """The model is invalid, damaged, or something graphprune refuses by name."""

    exit_code = 3


class CertificateError(GraphpruneError):
    """The pruned graph does not compute what the masked original computes: nothing is written."""

    exit_code = 4


class UnreachableTargetError(GraphpruneError):
    """A budget (`--params`, `--macs`) that no selection can meet; the message names the closest."""

    exit_code = 5


class NothingGainedError(GraphpruneError):
    """No group could be pruned, or the result is slower than the original."""

    exit_code = 6


def first_line(error: BaseException, most: int = 300) -> str:
    """What somebody else's error says first, at most so many characters; its type where it says nothing."""
    line = next((x.strip() for x in str(error).splitlines() if x.strip()), "")
    return line[:most] or type(error).__name__


def named_line(error: BaseException, most: int = 300) -> str:
    """The same behind the type of the error."""
    name, line = type(error).__name__, first_line(error, most)
    return name if line == name else f"{name}: {line}"[:most]
