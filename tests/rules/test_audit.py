"""Every registered rule against onnxruntime, on random graphs with random legal removals."""

from __future__ import annotations

import pytest
from audit import all_cases, audit

SEEDS = {"movement": range(12)}
"""Random chains are worth more than one look; `python -m tools.audit` sweeps all cases."""


@pytest.mark.parametrize("name", sorted(all_cases()))
def test_rule_is_true(name: str) -> None:
    case = all_cases()[name]
    for seed in SEEDS.get(case.family, range(1)):
        audit(case, seed)
