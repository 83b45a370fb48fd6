"""Criteria that need calibration inputs are of ONNX models; torch has gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune.torch as gpt
from graphprune.errors import UsageError
from graphprune.options import DATA_CRITERIA


def module() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(2, 8)


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
def test_they_are_refused_with_what_to_do(criterion: str) -> None:
    with pytest.raises(UsageError, match=r"scores=GradientScores\(") as caught:
        gpt.prune(*module(), channels=0.5, criterion=criterion)
    assert "\n" not in str(caught.value)


def test_calibration_inputs_are_refused() -> None:
    data = np.zeros((16, 8), np.float32)
    with pytest.raises(UsageError, match=r"calib and eval are for ONNX models: .*GradientScores"):
        gpt.prune(*module(), channels=0.5, criterion="energy", calib=data)


def test_auto_is_the_norm() -> None:
    net, example = module()
    auto, norm = (gpt.prune(net, example, channels=0.5, criterion=c) for c in ("auto", "l2"))
    assert auto.plan.dumps() == norm.plan.dumps()
