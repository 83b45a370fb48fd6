"""A BERT worked through: what its weights are like, what each way of pruning costs, what tokens hold.

    python -m tools.bert_study --packages FOLDER --cache FOLDER --json bert.json
        [--names minilm-l3] [--samples 96] [--seeds 1] [--parts rows single both alone criterion]
        [--scored 300 250 150] [--out docs/bert.md]

What FOLDER holds: `tools/accuracy_cases.py`. Each finished pruning is a record of the JSON file and
not repeated (one file for one setting). `--scored`: sentences of news whose embeddings are compared
with the original's, tweets that the probe of ratings is fitted to, and tested on. `--out` is a page
with blocks `<!-- table: NAME -->` to `<!-- end -->`, which are written anew; what stands between them
stays. Pictures are written beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from graphprune.errors import GraphpruneError
from tools._common import Record, Results
from tools.bert_cases import Subject, real
from tools.bert_runs import jobs

PARTS = ("rows", "single", "both", "alone", "criterion")


def run(
    subject: Subject, results: Results, samples: int, seeds: int, parts: Sequence[str] = PARTS
) -> dict[str, Record]:
    """All prunings of the subject that are not among the results yet."""
    for key, job in jobs(subject, samples, seeds):
        if key in results.records or key.split(" | ")[1] not in ("original", *parts):
            continue
        try:
            results.add(key, job())
        except GraphpruneError as error:
            results.add(key, {"refused": str(error)})
        print(key, results.records[key], flush=True)
    return results.records


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bert_study", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=["minilm-l3"])
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--scored", type=int, nargs=3, default=[300, 250, 150])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    from tools.accuracy_texts import Scored

    given.cache.mkdir(parents=True, exist_ok=True)
    results = Results(given.json)
    for name in given.names:
        subject = real(name, given.packages, given.cache, Scored(*given.scored))
        run(subject, results, given.samples, given.seeds, given.parts)
        if given.out:
            from tools.bert_pages import write

            write(subject, results.records, given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
