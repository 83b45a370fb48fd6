"""graphprune: structured pruning as a compiler for ONNX graphs.

    import graphprune
    result = graphprune.compile("model.onnx", channels=0.5)

`compile` prunes, proves and times; `analyse` gives the dependency graph, `layers` what can leave as a
whole; `Plan` is what was decided; `sparsify` sets single weights to zero; `op_rule` registers a rule for
an op of your own; `graphprune.passes` holds the single passes; `graphprune.torch` does the same for modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graphprune.analysis.dependency import DependencyGraph
    from graphprune.options import Options
    from graphprune.pipeline import Result, analyse, compile, layers, sensitivity, verify
    from graphprune.plan import Plan
    from graphprune.rules.registry import op_rule
    from graphprune.sparse.sparsify import sparsify

_WHERE = {
    "DependencyGraph": "analysis.dependency",
    "Options": "options",
    "Plan": "plan",
    "Result": "pipeline",
    "analyse": "pipeline",
    "compile": "pipeline",
    "layers": "pipeline",
    "op_rule": "rules.registry",
    "sensitivity": "pipeline",
    "sparsify": "sparse.sparsify",
    "verify": "pipeline",
}
__all__ = [
    "DependencyGraph",
    "Options",
    "Plan",
    "Result",
    "analyse",
    "compile",
    "layers",
    "op_rule",
    "sensitivity",
    "sparsify",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import graphprune` alone stays quick."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"graphprune.{_WHERE[name]}"), name)
    if name in ("passes", "torch"):
        from importlib import import_module

        return import_module(f"graphprune.{name}")
    raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
