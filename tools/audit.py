"""The long audit: every case of tests/rules with many seeds.

    python -m tools.audit --seeds 20 [--only PATTERN] [--removals N]

Prints one line for each failure (case, seed, what is wrong) and a summary; exits 1 on failures. A
failure is repeated with `--only CASE --first SEED --seeds 1`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def load_harness() -> None:
    """Make `audit` and the cases beside it importable."""
    folder = str(ROOT / "tests" / "rules")
    if folder not in sys.path:
        sys.path.insert(0, folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds (default 10)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument(
        "--removals", type=int, default=4, help="removals for each mode (default 4)"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    given = parser.parse_args()
    load_harness()
    from audit import sweep

    start, runs, failures, idle = time.monotonic(), 0, 0, 0
    removals = tensors = 0
    worst = 0.0
    seeds = range(given.first, given.first + given.seeds)
    for name, seed, wrong, tally in sweep(seeds, given.only, given.removals):
        runs += 1
        removals += tally.removals
        tensors += tally.tensors
        worst = max(worst, tally.worst)
        if wrong:
            failures += 1
            print(f"{name} seed {seed}: {wrong}", flush=True)
        elif not tally.removals:
            idle += 1
    print(
        f"{runs} audits ({idle} with nothing to remove), {removals} removals, {tensors} tensors "
        f"compared, worst error {worst:.1g} of a tensor's magnitude; {failures} failures in "
        f"{time.monotonic() - start:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
