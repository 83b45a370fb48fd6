"""docs/ops.md is what the tool would write, and every registered rule has an audit case."""

from __future__ import annotations

import pytest

from tools.op_coverage import DOCUMENT, Row, markdown, table


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return table()


def test_every_rule_has_an_audit_case(rows: list[Row]) -> None:
    assert [(r.domain, r.op, r.since) for r in rows if not r.families] == []


def test_document_is_current(rows: list[Row]) -> None:
    wanted = markdown(rows)
    assert DOCUMENT.read_text() == wanted, "run python -m tools.op_coverage --write"


def test_every_boundary_says_why(rows: list[Row]) -> None:
    silent = [r.op for r in rows if r.kind == "boundary" and not (r.boundary or r.reasons)]
    assert silent == []


def test_a_rule_without_a_case_is_shown() -> None:
    assert "| Bare | my.domain | 1 | sizes |  | **none** |" in markdown(
        [Row("my.domain", "Bare", 1)]
    )
