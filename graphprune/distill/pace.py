"""How many samples a step has: fewer where the time is for few steps only.

What matters is how often weights change, docs/accuracy-distillation.md has examples: the gradient of a
distance to known values has little noise, so that small steps lose little.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch

from graphprune.distill.matches import Match
from graphprune.distill.module import OnnxModule
from graphprune.distill.samples import Step
from graphprune.distill.teacher import Teacher, tensors

STEPS = 2000
"""That there should be time for."""

LEAST = 8
"""Samples in a step, however few steps there are."""


def paced(size: int, seconds: float, minutes: float, steps: int | None = None) -> int:
    """Samples in a step, at most `size`.

    Args:
        size: Samples, where time does not matter.
        seconds: That one sample takes.
        minutes: That there are.
        steps: Steps at most, where they are limited.
    """
    wanted = STEPS if steps is None else min(steps, STEPS)
    room = int(60 * minutes / max(seconds, 1e-9) / wanted)
    return min(size, max(room, LEAST))


def seconds_of(
    student: OnnxModule, teacher: Teacher, matches: Sequence[Match], steps: Sequence[Step]
) -> float:
    """What a sample takes in a step, teacher included. Weights and their gradients are as before.

    Args:
        student: The pruned graph.
        teacher: The original.
        matches: Values that are compared.
        steps: Inputs; where there are several, the first only makes things ready.
    """
    device = next(student.parameters()).device
    names = [m.name for m in matches]
    began, samples = perf_counter(), 0
    for number, step in enumerate(steps):
        if number == 1:
            began, samples = perf_counter(), 0
        for i, group in enumerate(step):
            wanted = teacher.targets(("pace", number, i), group)
            found = student(tensors(group.feeds, device), names)
            errors = [(found[n] - wanted[n]).square().mean() for n in names]
            loss = torch.stack(errors).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            float(loss.detach())  # a GPU is waited for
            samples += group.samples
    seconds = perf_counter() - began
    student.zero_grad(set_to_none=True)
    teacher.forget()
    return seconds / samples
