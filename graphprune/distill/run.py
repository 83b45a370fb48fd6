"""Distillation without labels: the pruned graph learns to give what the original gives.

The loss is the mean over values of both graphs (block outputs, see `graphprune.distill.matches`) of
the squared error to the original's value, divided by that value's centred variance, padding left
out, plus twice the same for the outputs. Hidden states of the whole depth as targets: FitNets
(Romero et al., ICLR'15), TinyBERT (Jiao et al., 2020); distillation alone after structured pruning
suffices (Minitron, 2024).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphprune.data.feeds import Batch, Calibration
from graphprune.distill.need import need_torch
from graphprune.distill.report import DistillReport
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.shapes import infer_shapes
from graphprune.plan import Plan

if TYPE_CHECKING:
    from graphprune.distill.module import OnnxModule

DISTILLED = "graphprune.distilled_steps"
"""Metadata of a model whose weights were trained."""

FEW = 2000
"""Inputs below which training is told to overfit: all weights are free, and there are many. The usual
learning rate is as much smaller as there are fewer, or outputs of others drift away at once."""

_SLOWEST = 0.2
"""Part of the usual learning rate that remains however few inputs there are."""

_CONVOLUTIONAL = (64, 1e-3)
_OTHER = (16, 5e-4)
_JUDGES = 512
"""Held-out inputs at most: they are looked at twenty times."""

_ROOM = 1 << 30
"""Bytes of activations of one step."""


def distill(
    original: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    calibration: Calibration,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    threads: int = 1,
    checkpoint: str | PathLike[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[ir.Model, DistillReport]:
    """A copy of `pruned` with trained weights, never worse on held-out inputs than `pruned`.

    A tenth of the inputs (of those that regularisers were chosen by) is held out and judges; the
    part of `calibration` for the final judgement is not touched. A GPU is used where torch has one.
    With `steps` instead of `minutes` the result is the same for the same seed on the same machine.

    Args:
        original: Canonical.
        pruned: What `plan` made of it, refitted or not; not changed.
        plan: What was cut.
        calibration: Unlabelled inputs.
        minutes: Wall-clock time of the training.
        steps: Steps at most, instead of minutes or with them.
        lr: Largest learning rate; None: by the kind of the graph (1e-3 for convolutions, 5e-4
            for the rest), less where there are few inputs.
        seed: Of the order of inputs.
        threads: Of torch and onnxruntime.
        checkpoint: Folder for the state, from which the same call goes on after an interruption,
            and for `best.onnx`.
        progress: Called with the share that is done.

    Raises:
        UsageError: torch is missing, no budget, too few inputs, a checkpoint of another run.
        UnsupportedModelError: An op that cannot be differentiated here, by name; or half precision.
        CertificateError: The graph in torch does not give what onnxruntime gives.
    """
    if minutes is None and steps is None:
        raise UsageError("distillation needs a budget: minutes or steps")
    if (minutes is not None and not minutes > 0) or (steps is not None and steps < 1):
        raise UsageError("distillation needs a budget above 0")
    need_torch("distillation (--distill)")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        budget = minutes, steps, lr, seed
        return _distill(original, pruned, plan, calibration, budget, threads, checkpoint, progress)
    finally:
        torch.set_num_threads(before)


def check(original: ir.Model, calibration: Calibration) -> None:
    """Whether a model can be distilled, told before anything else takes its time.

    Raises:
        UsageError: torch is missing, or the inputs are made up.
        UnsupportedModelError: An op that cannot be differentiated here, by name; or half precision.
    """
    need_torch("distillation (--distill)")
    if calibration.random:
        raise UsageError(
            "distillation (--distill) learns from inputs: give real ones to --calib, not random"
        )
    from graphprune.distill.module import OnnxModule

    OnnxModule(original)


def _distill(
    original: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    calibration: Calibration,
    budget: tuple[float | None, int | None, float | None, int],
    threads: int,
    checkpoint: str | PathLike[str] | None,
    progress: Callable[[float], None] | None,
) -> tuple[ir.Model, DistillReport]:
    import torch

    from graphprune.data.padding import find_padding
    from graphprune.distill.checkpoints import Checkpoints
    from graphprune.distill.equal import require_equal
    from graphprune.distill.matches import find_matches
    from graphprune.distill.module import OnnxModule
    from graphprune.distill.pace import paced, seconds_of
    from graphprune.distill.samples import make_steps
    from graphprune.distill.teacher import Teacher
    from graphprune.distill.train import Recipe, Training

    minutes, steps, lr, seed = budget
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = OnnxModule(pruned).to(device)
    if not student.weights:
        raise UnsupportedModelError("the pruned graph has no floating-point weight to train")
    learn, held = _parts(calibration)
    padding = find_padding(original, [b.feeds for b in (*learn, *held)])
    size, usual = _kind(student)
    size = _fitting(size, original, plan)
    matches = find_matches(original, pruned, plan)
    if not matches:
        raise UnsupportedModelError(
            "no floating-point value of the original is in the pruned graph"
        )
    judge = make_steps(original, held, size, padding)
    require_equal(pruned, student, judge[0][0].feeds, threads)
    checkpoints = Checkpoints(checkpoint, _key(plan, student, learn, held, seed))
    teacher = Teacher(original, matches, device, threads=threads)
    try:
        saved = checkpoints.load()
        if saved is not None:
            size = saved.get("batch", size)
        elif minutes is not None:
            few = make_steps(original, _first(learn, 2 * size), size, padding)
            size = paced(size, seconds_of(student, teacher, matches, few), minutes, steps)
        samples = sum(b.samples for b in learn)
        recipe = Recipe(
            usual_rate(usual, samples) if lr is None else lr, minutes, steps, seed, size
        )
        train = make_steps(original, learn, size, padding)
        state = Training(
            student,
            pruned,
            teacher,
            matches,
            train,
            judge,
            recipe,
            checkpoints,
            saved,
            progress or (lambda share: None),
        ).run()
    finally:
        teacher.close()
    copy = pruned.clone()
    if state.best_step:
        student.write_back(copy)
        copy.metadata_props[DISTILLED] = str(state.best_step)
    report = DistillReport(
        steps=state.step,
        seconds=state.seconds,
        samples=samples,
        held_out=sum(b.samples for b in held),
        lr=recipe.lr,
        batch=recipe.batch,
        device=device.type,
        matched=tuple(m.name for m in matches),
        start=state.start,
        best=state.best,
        best_step=state.best_step,
        skipped=state.skipped,
        history=tuple(state.history),
        warnings=_warnings(samples, state.best_step, state.step, state.skipped),
    )
    return copy, report


def _parts(calibration: Calibration) -> tuple[list[Batch], list[Batch]]:
    """Batches to learn from, and a tenth to judge by, from those that were not fitted to."""
    wanted = min(calibration.samples / 10, _JUDGES)
    learn, held = list(calibration.fit), list[Batch]()
    taken = 0
    for batch in calibration.choose:
        if taken < wanted:
            held.append(batch)
            taken += batch.samples
        else:
            learn.append(batch)
    if not learn or not held:
        raise UsageError("distillation needs calibration inputs to learn from and to judge by")
    return learn, held


def _first(batches: list[Batch], samples: int) -> list[Batch]:
    """As many as hold so many samples."""
    totals = np.cumsum([b.samples for b in batches])
    return batches[: int(np.searchsorted(totals, samples)) + 1]


def _kind(student: OnnxModule) -> tuple[int, float]:
    """Samples in a step and learning rate, by what most weights belong to."""
    sizes = [(p.ndim, p.numel()) for p in student.weights.values()]
    kernels = sum(n for rank, n in sizes if rank >= 4)
    return _CONVOLUTIONAL if 2 * kernels >= sum(n for _, n in sizes) else _OTHER


def usual_rate(rate: float, samples: int) -> float:
    """The learning rate of a kind of graph, for so many inputs to learn from."""
    return rate * min(1.0, max(_SLOWEST, samples / FEW))


def _fitting(size: int, model: ir.Model, plan: Plan) -> int:
    """As many samples as have room for all their activations, which gradients need."""
    shapes = infer_shapes(model, plan.binding)
    samples = max((shapes.dims[v][0] for v in model.graph.inputs if shapes.dims.get(v)), default=1)
    total = sum(4 * int(np.prod(d)) for v, d in shapes.dims.items() if v.producer() is not None)
    return max(1, min(size, _ROOM * samples // max(total, 1)))


def _key(plan: Plan, student: OnnxModule, learn: list[Batch], held: list[Batch], seed: int) -> str:
    """What a checkpoint belongs to: the plan, the weights' shapes, the inputs, the seed."""
    found = hashlib.sha256(f"{plan.sha256} {seed}".encode())
    for name, parameter in student.weights.items():
        found.update(f"{name} {tuple(parameter.shape)}".encode())
    for part in (learn, held):
        for batch in part:
            for name, array in batch.feeds.items():
                found.update(f"{name} {array.shape}".encode())
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _warnings(samples: int, best_step: int, step: int, skipped: int) -> tuple[str, ...]:
    found: list[Any] = []
    if samples < FEW:
        found.append(
            f"distillation learnt from {samples} inputs: under about {FEW:,} it overfits, give more "
            "(--calib-samples)"
        )
    if not best_step:
        found.append("distillation did not bring held-out outputs closer: the weights stay")
    if skipped > step // 10:
        found.append(f"{skipped} of {step} steps of distillation had no finite gradient")
    return tuple(found)
