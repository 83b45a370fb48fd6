"""What is said of errors that other code raised."""

from __future__ import annotations

from graphprune.errors import first_line, named_line


def test_the_first_line_that_says_something() -> None:
    assert first_line(ValueError("\n  sizes differ \n  at node 3")) == "sizes differ"
    assert first_line(ValueError("a" * 500), 20) == "a" * 20


def test_an_error_that_says_nothing_is_called_by_its_type() -> None:
    assert first_line(KeyError()) == named_line(KeyError()) == "KeyError"
    assert named_line(ValueError("sizes differ\nat node 3")) == "ValueError: sizes differ"
