"""docs/ops-torch.md lists every ATen rule, each with an audit case."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch")

import graphprune.rules.aten  # noqa: F401  (registers the rules)
from graphprune.rules.aten.registry import DOMAIN, aten
from tools.op_coverage import Row
from tools.torch_ops import DOCUMENT, markdown


def test_every_rule_is_listed_with_a_case() -> None:
    listed = re.findall(r"^\| (\S+) \| (\w+) \|.*\| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    shipped = {r.op for r in aten if r.domain == DOMAIN}
    assert {op for op, _, _ in listed} == shipped, "run python -m tools.torch_ops --write"
    assert not [op for op, _, files in listed if "none" in files]


def test_a_rule_without_a_case_is_called_out() -> None:
    text = markdown([Row(DOMAIN, "relu", 1), Row("mine", "swish", 1, "it is mine")])
    assert "| relu | sizes |  | **none** |" in text
    assert "| mine::swish | boundary | it is mine | **none** |" in text
