"""Every registered rule against onnxruntime, on random graphs with random legal removals."""

from __future__ import annotations

import pytest
from audit import all_cases, audit

SEEDS = (0, 1)


@pytest.mark.parametrize("name", sorted(all_cases()))
def test_rule_is_true(name: str) -> None:
    for seed in SEEDS:
        audit(all_cases()[name], seed)
