"""Every ATen rule against eager torch, on random modules with random legal removals."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from aten_audit import all_cases, audit

SEEDS = {"movement": range(6)}
"""Random chains are worth more than one look."""


@pytest.mark.parametrize("name", sorted(all_cases()))
def test_aten_rule_is_true(name: str) -> None:
    case = all_cases()[name]
    for seed in SEEDS.get(case.family, range(1)):
        audit(case, seed)
