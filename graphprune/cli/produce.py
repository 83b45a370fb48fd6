"""What `compile` and `apply` share: run the pipeline, write all files or none, show the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import ZOO, check_outputs, default_output, model_file
from graphprune.cli.zoo import metric

if TYPE_CHECKING:
    from graphprune.report.model import Report


def produce(
    model: str,
    settings: Mapping[str, Any],
    *,
    output: str | None = None,
    plan: str | None = None,
    save_plan: str | None = None,
    report: str | None = None,
    overwrite: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Prune `model` and write what was asked for.

    Args:
        model: A file or zoo:NAME.
        settings: Fields of `graphprune.pipeline.Options`.
        output: The file to write; default: `MODEL.pruned.onnx`.
        plan: A plan file to apply instead of choosing.
        save_plan: Where to write the plan.
        report: Where to write the report.
        overwrite: Existing files may be replaced.
        as_json: Print the report as JSON.
        quiet: Print errors only.
    """
    threads = int(settings.get("threads", 1))
    source = model_file(model)
    target = Path(output) if output else default_output(model, ".pruned.onnx")
    plan_file = Path(save_plan) if save_plan else None
    report_file = Path(report) if report else None
    check_outputs(
        source, {"-o": target, "--save-plan": plan_file, "--report": report_file}, overwrite
    )
    with reserved_stdout(), Stages(quiet) as stages:
        stages("load libraries")
        from graphprune.onnx.save import save
        from graphprune.pipeline import Options
        from graphprune.pipeline import compile as compile_model
        from graphprune.plan import Plan

        given = None if plan is None else Plan.load(plan)
        result = compile_model(source, Options(**settings), plan=given, progress=stages)
        made = replace(result.report, source=model)
        if model.startswith(ZOO) and made.metric is None:
            stages("evaluate")
            made = replace(made, metric=metric(model, source, result.model, threads))
        stages("write")
        with _all_or_none((target, plan_file, report_file)):
            save(result.model, target)
            if plan_file is not None:
                result.plan.save(plan_file)
            if report_file is not None:
                made.save(report_file)
    if as_json:
        print(made.dumps())
    elif quiet:
        return
    else:
        from graphprune.report.terminal import print_report

        print_report(stdout(), made, _next_steps(model, target, plan_file, made))


@contextlib.contextmanager
def _all_or_none(files: tuple[Path | None, ...]) -> Iterator[None]:
    """Where one of the files cannot be written, take away those that are new."""
    new = [path for path in files if path is not None and not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _next_steps(model: str, target: Path, plan: Path | None, made: Report) -> list[str]:
    from graphprune.report import numbers

    lines = [f"Wrote {target} ({numbers.size(made.pruned.bytes)})."]
    refitted = (made.drift is not None and made.drift.refitted > 0) or bool(
        made.distillation and made.distillation["best_step"]
    )
    if plan is not None and not refitted:  # weights that were fitted are not the original's
        lines.append(f"Check it again:  graphprune verify {model} {target} --plan {plan}")
    elif plan is None:
        lines.append("Keep what was chosen with --save-plan FILE, all figures with --report FILE.")
    if made.metric is None and refitted:
        lines.append("Accuracy is not known: calibration inputs have no labels. Test it on yours.")
    elif made.metric is None:
        lines.append("Accuracy is not known: the weights were cut without data. Test it on yours.")
    elif refitted and made.metric.pruned < made.metric.original - 0.01:
        lines.append(f"The {made.metric.name} fell: give more calibration inputs, or keep more.")
    elif made.metric.pruned < made.metric.original - 0.01:
        lines.append(
            f"The {made.metric.name} fell, because the weights were cut without data: fine-tune "
            "it, or keep more."
        )
    return lines
