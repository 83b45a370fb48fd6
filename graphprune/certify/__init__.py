"""The proof that a pruned graph computes what the masked original computes.

It consumes the original, the pruned graph and the plan, never the analysis or the slicing code.
"""

from graphprune.certify.certificate import Certificate, certify, require
from graphprune.certify.drift import Drift, compare_io

__all__ = ["Certificate", "Drift", "certify", "compare_io", "require"]
