"""`graphprune compile`: prune a model, prove it, time it, write it."""

from __future__ import annotations

from typing import Annotated, Any

from graphprune.cli import data_options as data
from graphprune.cli import options as opt
from graphprune.cli.produce import produce
from graphprune.errors import UsageError
from graphprune.options import BUDGETS, LAYER_CRITERIA, SCOPES


def _number(name: str, text: str, panel: str) -> Any:
    return opt.option(name, "R", text, panel)


def compile_(
    model: opt.Model,
    channels: Annotated[
        float | None,
        _number("--channels", "Keep this fraction of each prunable group's channels.", opt.STAYS),
    ] = None,
    params: Annotated[
        float | None,
        _number("--params", "Keep at most this fraction of the model's parameters.", opt.STAYS),
    ] = None,
    macs: Annotated[
        float | None,
        _number("--macs", "Keep at most this fraction of the model's multiply-adds.", opt.STAYS),
    ] = None,
    latency: data.Latency = None,
    latency_ms: data.LatencyMs = None,
    max_drop: data.MaxDrop = None,
    max_divergence: data.MaxDivergence = None,
    layers: Annotated[
        str | None,
        opt.option(
            "--layers",
            "R|auto",
            "Keep this fraction of the whole layers and residual blocks; auto: as few leave as --macs "
            "or --params ask for.",
            opt.STAYS,
        ),
    ] = None,
    heads: Annotated[
        float | None,
        _number("--heads", "Keep this fraction of each attention's heads.", opt.STAYS),
    ] = None,
    head_dims: Annotated[
        float | None,
        _number("--head-dims", "Keep this fraction of the dimensions inside heads.", opt.STAYS),
    ] = None,
    group_ratio: Annotated[
        list[str] | None,
        opt.option(
            "--group-ratio",
            "GLOB=R",
            "Another fraction for groups whose name matches; at 0 the whole group leaves, and the "
            "branch or block with it. Repeat for more.",
            opt.STAYS,
        ),
    ] = None,
    align: Annotated[
        str,
        opt.option(
            "--align",
            "auto|N",
            "Round widths to what the runtime likes, to multiples of N, or not at all (1).",
            opt.STAYS,
        ),
    ] = "auto",
    layer_criterion: Annotated[
        str,
        opt.option(
            "--layer-criterion",
            "damage|cosine",
            "Layers leave by what that does to the outputs, or by how little they change.",
            opt.WHAT,
        ),
    ] = "damage",
    linear_layers: Annotated[
        bool,
        opt.flag(
            "--linear-layers",
            "Put a linear map in place of each layer that leaves; --calib fits it.",
            opt.WHAT,
        ),
    ] = False,
    criterion: opt.Criterion = "auto",
    scope: Annotated[
        str,
        opt.option(
            "--scope",
            "local|global|sensitivity",
            "The same ratio in each group, one threshold over the whole model, or, with --calib, "
            "the widths of least damage, measured group by group.",
            opt.WHAT,
        ),
    ] = "local",
    residual: opt.Residual = False,
    only: opt.Only = None,
    exclude: opt.Exclude = None,
    ratios_from: data.RatiosFrom = None,
    plan: Annotated[
        str | None,
        opt.option(
            "--plan",
            "IN.plan.json",
            "Apply the choices of an earlier --save-plan instead of making new ones.",
            opt.WHAT,
        ),
    ] = None,
    calib: data.Calib = None,
    calib_samples: data.CalibSamples = 256,
    calib_images: data.CalibImages = None,
    tokenizer: data.Tokenizer = None,
    max_length: data.MaxLength = None,
    evaluate: data.Eval = None,
    distill: data.Distill = None,
    distill_checkpoint: data.DistillCheckpoint = None,
    output: opt.Output = None,
    save_plan: Annotated[
        str | None,
        opt.option(
            "--save-plan",
            "OUT.plan.json",
            "Write what was chosen: it can be reviewed, verified and applied again.",
            opt.OUTPUT,
        ),
    ] = None,
    report: opt.ReportFile = None,
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    provider: opt.Provider = opt.CPU,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
    latency_table: data.LatencyTable = None,
    no_bench: opt.NoBench = False,
    no_verify: opt.NoVerify = False,
    allow_slower: Annotated[
        bool,
        opt.flag(
            "--allow-slower",
            "Write the result even where it is slower, or nothing could be pruned.",
            opt.RUN,
        ),
    ] = False,
) -> None:
    """Prune MODEL, prove the result, time both, and write the smaller ONNX file.

    [bold]graphprune compile model.onnx --channels 0.5[/bold] keeps half of every prunable group's
    channels, neurons and heads. The input is never changed.
    """
    settings = {
        "channels": opt.ratio(channels, "--channels"),
        "params": opt.ratio(params, "--params"),
        "macs": opt.ratio(macs, "--macs"),
        "latency": opt.ratio(latency, "--latency"),
        "latency_ms": latency_ms,
        "latency_table": latency_table,
        "max_drop": max_drop,
        "max_divergence": max_divergence,
        "ratios_from": ratios_from,
        "layers": opt.layers(layers),
        "layer_criterion": opt.choice(layer_criterion, LAYER_CRITERIA, "--layer-criterion"),
        "linear_layers": linear_layers,
        "heads": opt.ratio(heads, "--heads"),
        "head_dims": opt.ratio(head_dims, "--head-dims"),
        "group_ratio": opt.group_ratios(group_ratio),
        "align": opt.align(align),
        "criterion": criterion,
        "scope": opt.choice(scope, SCOPES, "--scope"),
        "residual": residual,
        "only": tuple(only or ()),
        "exclude": tuple(exclude or ()),
        "dims": opt.dims(dim),
        "provider": provider,
        "threads": opt.at_least(threads, 1, "--threads"),
        "seed": opt.at_least(seed, 0, "--seed"),
        "bench": not no_bench,
        "verify": not no_verify,
        "allow_slower": allow_slower,
        **data.reading(calib, calib_samples, calib_images, tokenizer, max_length),
        "eval": evaluate,
        "distill": distill,
        "distill_checkpoint": distill_checkpoint,
    }
    _check_budget(settings, plan)
    produce(
        model,
        settings,
        output=output,
        plan=plan,
        save_plan=save_plan,
        report=report,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )


def _check_budget(settings: dict[str, Any], plan: str | None) -> None:
    """Budgets that go together, or a plan. Raises UsageError that says which there are."""

    def given(*names: str) -> list[str]:
        return ["--" + n.replace("_", "-") for n in names if settings[n] not in (None, ())]

    budgets = given(*BUDGETS)
    others = given("max_drop", "max_divergence", "layers", "heads", "head_dims", "group_ratio")
    if settings["channels"] is not None and len(budgets) > 1:
        raise UsageError(f"{' and '.join(budgets)} exclude each other: give one of them")
    if plan is not None and budgets + others:
        raise UsageError(f"--plan fixes what stays: {(budgets + others)[0]} cannot be added")
    if plan is None and not budgets + others:
        raise UsageError(
            "say how much stays: --channels R (of each group), --params R, --macs R or --latency R "
            "(of the whole model), --max-drop X with --eval, --max-divergence X with --calib, "
            "--layers R, --heads R, --head-dims R, --group-ratio GLOB=R, or --plan FILE"
        )
