"""Who may import whom: later stages import earlier ones, never the reverse.

Read off the sources, imports inside functions included; what stands under `if TYPE_CHECKING` is for
readers and type checkers and is looked at only where a foreign type must not appear at all.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]

#: From early to late. Within one entry modules may import each other.
LAYERS = (
    "errors",
    "files",
    "threads",
    "freed",
    "cholesky",
    "cut",
    "plan",
    "options",
    "compose",
    "labels",
    "rules",
    "rules.shared",
    "rules.onnx",
    "analysis",
    "selection",
    "decide",
    "transfer",
    "onnx",
    "data",
    "scoring",
    "compensation",
    "passes",
    "onnx.canonical",
    "rewrite",
    "measure",
    "vocabulary",
    "certify",
    "onnx.subject",
    "onnx.layers",
    "damage",
    "latency",
    "compensation.run",
    "distill",
    "sparse",
    "report",
    "torch.call",
    "torch.shapes",
    "torch.switch",
    "torch.inline",
    "torch.tidy",
    "torch.capture",
    "torch.context",
    "torch.slicing",
    "torch.resize",
    "rules.aten",
    "torch",
    "zoo",
    "stages",
    "pipeline",
    "cli",
)

#: Knows neither ONNX nor torch: a second front end stands on the same ground.
NEUTRAL = (
    "errors",
    "files",
    "cut",
    "plan",
    "options",
    "compose",
    "labels",
    "analysis",
    "selection",
    "decide",
    "transfer",
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without `graphprune.`."""
    found = {}
    for folder, prefix in ((ROOT / "graphprune", ""), (ROOT / "passes", "passes.")):
        for path in sorted(folder.rglob("*.py")):
            if (folder / "passes") in path.parents or (folder / "zoo") in path.parents:
                continue  # links to folders beside the package
            name = prefix + ".".join(path.relative_to(folder).with_suffix("").parts)
            found[name.removesuffix("__init__").removesuffix(".")] = path
    return found


MODULES = modules()


def imports(path: Path, *, types: bool, inside: bool) -> Iterator[str]:
    """What a file imports: dotted names, `from a import b` as both `a` and `a.b`.

    Only as `a.b` where that is a module of the package.

    Args:
        path: The file.
        types: Whether to count what stands under `if TYPE_CHECKING`.
        inside: Whether to count what stands in functions.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                if types:
                    yield from visit(child)
                for other in child.orelse:
                    yield from visit(other)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                if inside:
                    yield from visit(child)
            elif isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path} imports relatively"
                module = child.module or ""
                names = [f"{module}.{alias.name}" for alias in child.names]
                modules = [n for n in names if n.removeprefix("graphprune.") in MODULES]
                yield from names if modules == names else [module, *names]
            else:
                yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def own(name: str) -> str | None:
    """The module of the package that an import leads to; None for others and the package itself."""
    if name == "graphprune" or not name.startswith("graphprune."):
        return None
    inner = name.removeprefix("graphprune.")
    while inner and inner not in MODULES:
        inner = inner.rpartition(".")[0]
    return inner or None


def layer(module: str) -> str:
    """The longest entry of LAYERS that a module lies in."""
    fitting = [x for x in LAYERS if module == x or module.startswith(f"{x}.")]
    assert fitting, f"no layer for graphprune.{module}: add it to LAYERS where it belongs"
    return max(fitting, key=len)


def test_the_sources_are_found() -> None:
    assert len(MODULES) > 80
    assert {"plan", "labels.space", "passes.prune", "onnx.trace", "cli.app"} <= set(MODULES)


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_imports_point_to_earlier_layers(module: str) -> None:
    mine = LAYERS.index(layer(module))
    for name in imports(MODULES[module], types=False, inside=True):
        target = own(name)
        if target is not None and target != module:
            theirs = LAYERS.index(layer(target))
            assert theirs <= mine, f"{layer(module)} imports {layer(target)}: {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if m and layer(m) in NEUTRAL])
def test_the_ground_knows_no_framework(module: str) -> None:
    """Not even for types, and not inside functions."""
    for name in imports(MODULES[module], types=True, inside=True):
        assert name.partition(".")[0] not in ("onnx", "onnx_ir", "onnxruntime", "torch"), name
        target = own(name)
        if target is not None:
            assert layer(target) in NEUTRAL, name


def test_torch_is_imported_by_its_front_end_only() -> None:
    for module, path in MODULES.items():
        if layer(module or "errors").startswith(("torch", "rules.aten", "distill")):
            continue
        for name in imports(path, types=True, inside=True):
            assert name.partition(".")[0] not in ("torch", "torchvision", "transformers"), module


def test_there_is_no_circle() -> None:
    """Module by module, of what is imported when a module is loaded."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for module, path in MODULES.items():
        for name in imports(path, types=False, inside=False):
            target = own(name)
            if module and target is not None and target != module:
                graph.add_edge(module, target)
    circles = [c for c in nx.strongly_connected_components(graph) if len(c) > 1]
    assert circles == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import graphprune", ("onnx", "onnx_ir", "onnxruntime", "scipy", "torch", "numpy")),
        ("from graphprune import Plan, Options", ("onnx", "onnx_ir", "onnxruntime", "scipy")),
        ("import graphprune.passes", ("onnx", "onnx_ir", "onnxruntime", "scipy")),
        ("import graphprune.labels", ("onnx", "onnx_ir", "onnxruntime", "torch")),
        ("import graphprune.analysis.dependency", ("onnx", "onnx_ir", "onnxruntime", "torch")),
        ("import graphprune.selection.select", ("onnx", "onnx_ir", "onnxruntime", "torch")),
        ("import graphprune.pipeline", ("onnxruntime", "torch", "scipy.optimize")),
        ("import graphprune; graphprune.torch", ("onnx", "onnx_ir", "torch", "numpy")),
        ("import graphprune.cli", ("onnx", "onnx_ir", "onnxruntime", "scipy", "torch", "numpy")),
    ],
)
def test_start_up_is_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}; import sys; print([m for m in {absent} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    import graphprune

    for name in graphprune.__all__:
        assert getattr(graphprune, name) is not None
    for name in graphprune.passes.__all__:
        assert getattr(graphprune.passes, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        graphprune.nothing  # noqa: B018


def test_a_missing_torch_is_told() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import graphprune\n"
        "try: graphprune.torch.prune\n"
        "except graphprune.errors.UsageError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'graphprune[torch]'" in found.stdout
