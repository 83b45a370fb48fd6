"""`graphprune trim-vocab`: the tokens of a corpus, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import check_outputs, default_output, model_file
from graphprune.errors import UsageError


def trim_vocab(
    model: opt.Model,
    tokenizer: Annotated[
        str,
        opt.option("--tokenizer", "FILE", "The model's tokenizer.json.", opt.WHAT),
    ],
    corpus: Annotated[
        str,
        opt.option("--corpus", "FILE", "Texts, one a line: the tokens they need stay.", opt.WHAT),
    ],
    output: Annotated[str | None, opt.output("MODEL.trimmed.onnx beside the input")] = None,
    tokenizer_out: Annotated[
        str | None,
        opt.option(
            "--tokenizer-out",
            "FILE",
            "Where the new tokenizer goes; OUT with .tokenizer.json if not given.",
            opt.OUTPUT,
        ),
    ] = None,
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
) -> None:
    """Cut the vocabulary of MODEL and its tokenizer to the tokens that a corpus needs.

    Rows of the token embeddings leave, outputs of the language-model head with them. Texts whose
    tokens are kept are cut into the same tokens and give the same outputs, bit by bit; ids are new,
    so model and tokenizer belong together.
    """
    dims = opt.dims(dim)
    opt.at_least(threads, 1, "--threads")
    opt.at_least(seed, 0, "--seed")
    source = model_file(model)
    for option, name in (("--tokenizer", tokenizer), ("--corpus", corpus)):
        if not Path(name).is_file():
            raise UsageError(f"{option}: no such file: {name}")
    target = Path(output) if output else default_output(model, ".trimmed.onnx")
    words = Path(tokenizer_out) if tokenizer_out else default_output(target, ".tokenizer.json")
    check_outputs(source, {"-o": target, "--tokenizer-out": words}, overwrite)
    for option, name in (("--tokenizer", tokenizer), ("--corpus", corpus)):
        if words.exists() and words.samefile(name):
            raise UsageError(f"--tokenizer-out {words} is the file of {option}")
    with reserved_stdout(), Stages(quiet) as stages:
        stages("load libraries")
        from graphprune.files import write_atomically
        from graphprune.measure.size import file_bytes
        from graphprune.onnx.save import save
        from graphprune.vocabulary.trim import trim_vocabulary

        made = trim_vocabulary(
            source,
            tokenizer,
            corpus,
            dims=dims,
            threads=threads,
            seed=seed,
            progress=stages,
        )
        stages("write")
        fresh = not words.exists()
        write_atomically(words, lambda file: file.write(made.tokenizer.encode()))
        try:
            save(made.model, target)
        except BaseException:
            if fresh:
                words.unlink(missing_ok=True)
            raise
        sizes = file_bytes(source), file_bytes(target)
    data = {
        **made.report.to_json(),
        "source": model,
        "original_bytes": sizes[0],
        "written_bytes": sizes[1],
    }
    if as_json:
        print(json.dumps(data, indent=1, sort_keys=True))
    elif not quiet:
        for line in _lines(model, data, target, words):
            stdout().print(line, soft_wrap=True, markup=False)


def _lines(model: str, data: dict[str, Any], target: Path, words: Path) -> list[str]:
    from graphprune.report import numbers

    before, after = data["original_bytes"], data["written_bytes"]
    lines = [
        f"{model}  {data['rows']:,} -> {data['kept']:,} tokens, "
        f"{numbers.size(before)} -> {numbers.size(after)} ({numbers.change(before, after)})",
        f"  kept: {data['special']:,} special, {data['corpus']:,} of {data['texts']:,} texts, "
        f"{data['parts']:,} parts and characters of these",
        f"  cut: {', '.join([*data['tables'], *data['heads']])}",
    ]
    if data["unknown"]:
        lines.append(f"  {data['unknown']:.2%} of the corpus was unknown to the tokenizer before")
    if data["logits"]:
        lines.append(
            f"  output {', '.join(data['logits'])} has {data['kept']:,} numbers a place now, one for "
            "each token that is kept"
        )
    how = (
        "equal bit by bit"
        if not data["close"]
        else (
            f"equal bit by bit: {', '.join(data['exact']) or 'none'}; to float error: "
            f"{', '.join(data['close'])}"
        )
    )
    lines.append(f"  outputs on {data['checked']} batches of the corpus' tokens: {how}")
    lines += [f"  note: {note}" for note in data["notes"]]
    lines.append(f"Wrote {target} and {words}: ids are new, use them together.")
    return lines
