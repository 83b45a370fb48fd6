"""`graphprune bench`: time one model, or two against each other."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import model_file
from graphprune.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprune.measure.latency import Latency, Timing


def bench(
    model: opt.Model,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="A second model with the same inputs."),
    ] = None,
    seconds: Annotated[
        float,
        opt.option("--seconds", "S", "Stop after this time.", opt.RUN),
    ] = 10.0,
    as_json: opt.Json = False,
    dim: opt.Dim = None,
    provider: opt.Provider = opt.CPU,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
) -> None:
    """Time MODEL in onnxruntime, or MODEL against OTHER in interleaved blocks.

    Two models are timed in alternating blocks of ten runs until the ratio is certain to 2 % or the
    time is spent; where noise is too high for a number, that is what it says.
    """
    dims = opt.dims(dim)
    opt.at_least(threads, 1, "--threads")
    opt.at_least(seed, 0, "--seed")
    if not seconds > 0:
        raise UsageError(f"--seconds {seconds:g} is out of range: more than 0")
    paths = [model_file(name) for name in (model, other) if name is not None]
    with reserved_stdout(), Stages() as stages:
        stages("load")
        from graphprune.measure.latency import compare_latency, time_model
        from graphprune.onnx.load import load
        from graphprune.onnx.runtime import find_trials

        models = [load(path).model for path in paths]
        trial = find_trials(models[0], dims, seed)[0]
        stages("time")
        if other is None:
            timing = time_model(models[0], trial.feeds, threads, provider, seconds)
        else:
            _check_same_inputs(models[0], models[1])
            latency = compare_latency(
                models[0],
                models[1],
                trial.feeds,
                threads=threads,
                provider=provider,
                seconds_budget=seconds,
                progress=lambda share: stages("time", share),
            )
    about = {"binding": dict(trial.binding), "threads": threads, "provider": provider}
    if as_json:
        figures: dict[str, Any] = asdict(timing) if other is None else latency.to_json()
        print(json.dumps({**figures, **about}, indent=1, sort_keys=True))
    elif other is None:
        stdout().print(_one(model, timing, trial.binding, threads), soft_wrap=True, markup=False)
    else:
        for line in _two(model, other, latency):
            stdout().print(line, soft_wrap=True, markup=False)


def _check_same_inputs(a: ir.Model, b: ir.Model) -> None:
    from graphprune.onnx.bindings import real_inputs

    names = [sorted(str(value.name) for value in real_inputs(m)) for m in (a, b)]
    if names[0] != names[1]:
        raise UsageError(
            f"the two models have different inputs ({', '.join(names[0])} and "
            f"{', '.join(names[1])}): only models with the same inputs can be compared"
        )


def _one(model: str, timing: Timing, binding: Any, threads: int) -> str:
    from graphprune.report import numbers

    sizes = "".join(f", {name}={size}" for name, size in binding.items())
    return (
        f"{model}  {numbers.duration(timing.median_ms)} a run  (interquartile range "
        f"{numbers.duration(timing.iqr_ms)}, {numbers.plural(timing.runs, 'run')}, "
        f"{numbers.plural(threads, 'thread')}{sizes})"
    )


def _two(model: str, other: str, latency: Latency) -> list[str]:
    from graphprune.report import numbers
    from graphprune.report.terminal import latency_note

    width = max(len(model), len(other))
    lines = [
        f"{name:<{width}}  {numbers.duration(timing.median_ms):>8}  "
        f"(interquartile range {numbers.duration(timing.iqr_ms)})"
        for name, timing in ((model, latency.original), (other, latency.pruned))
    ]
    verdict = {"faster": "faster: ", "slower": "SLOWER: ", "noise": ""}[latency.verdict]
    blocks = f"{latency.blocks} pairs of blocks of {latency.runs_per_block}"
    sure = f"{latency.confidence:.0%} sure"
    return [*lines, f"{verdict}{latency_note(latency)}, {blocks}, {sure}"]
