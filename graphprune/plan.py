"""The plan: the contract between deciding what leaves and making it leave.

A plan names no ONNX or torch type: values, nodes and initializers are strings of the input file,
and every index is in the numbering of the original. Whoever holds the original and a plan can
rebuild the masked original or the pruned graph without graphprune (docs/plan-format.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graphprune.cut import Cut
from graphprune.errors import UsageError

FORMAT = 1


@dataclass(frozen=True, eq=False)
class InitializerCut:
    """One *use* of an initializer that was cut: equal-valued initializers are shared by exporters,
    so two uses of one initializer may keep different indices.

    Attributes:
        initializer: Name of the initializer in the original.
        node: The consumer's name or, where it has none, its first output's.
        input: Which input of that node.
        cuts: The axes that were shortened.
    """

    initializer: str
    node: str
    input: int
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class GroupChoice:
    """What was decided for one group of coupled channels.

    Attributes:
        name: Unique, readable, stable for a model (named after its first producer).
        kind: `channel`, `head`, `neuron`, `hidden`, `group`, `residual`, ...
        size: Units in the original. A unit is what leaves together (one channel, one head).
        kept: Units that stay, in increasing order.
        scores: One score a unit (larger stays), empty where the choice came from outside.
        members: `(tensor or initializer, axis)` pairs that the group runs through.
    """

    name: str
    kind: str
    size: int
    kept: tuple[int, ...]
    scores: tuple[float, ...] = ()
    members: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class LinearMap:
    """A square matrix and a bias over the channels of a tensor.

    Attributes:
        width: Channels.
        spatial: Axes behind the channels, which are the second axis; None: channels are the last.
        dtype: Element type by its numpy name.
    """

    width: int
    spatial: int | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class LayerCut:
    """A whole layer or residual block that leaves, before anything inside of layers does.

    Attributes:
        name: Of the layer (`graphprune.analysis.layers`).
        source: The value that comes in; it stands for `output` in what is left.
        output: The value that goes out.
        linear: What stands in between, the identity until it is fitted; None where nothing does.
        score: What removing it cost when it was chosen; None where the choice came from outside.
    """

    name: str
    source: str
    output: str
    linear: LinearMap | None = None
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """One entry of the plan file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerCut:
        """The inverse of `to_json`."""
        linear, score = data.get("linear"), data.get("score")
        return cls(
            name=str(data["name"]),
            source=str(data["source"]),
            output=str(data["output"]),
            linear=None if linear is None else LinearMap(**linear),
            score=None if score is None else float(score),
        )


@dataclass(frozen=True)
class Unpruned:
    """Something that could not or was not to be pruned: the node that decides it and the reason."""

    node: str
    reason: str
    group: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """Which units leave, and what that means for every tensor.

    Attributes:
        source_sha256: Hash of the model the plan was made for (see `graphprune.onnx.load`).
        groups: The decisions.
        tensors: Activation name -> its cuts.
        initializers: Every initializer use that was cut.
        statistics_nodes: Nodes whose statistics (mean, variance) run over an axis that was cut, and
            which are therefore taken over what is kept: name -> axes of the node's first input. A
            Mul or Div stands for a mean written by hand (a ReduceSum times 1 / C or divided by C,
            perhaps with views between): its axes are those of the ReduceSum's first input.
        unpruned: What was left, and why.
        binding: The sizes given to dynamic dimensions while planning.
        origins: Initializer that is the transpose of a weight of the source (folded by exporters
            and by graphprune) -> name of that weight, and which of its axes each axis is.
        layers: Whole layers that leave first; everything above is about the model without them.
    """

    source_sha256: str
    groups: tuple[GroupChoice, ...]
    tensors: Mapping[str, tuple[Cut, ...]]
    initializers: tuple[InitializerCut, ...]
    statistics_nodes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unpruned: tuple[Unpruned, ...] = ()
    binding: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    layers: tuple[LayerCut, ...] = ()

    @property
    def cuts_something(self) -> bool:
        """Whether anything leaves at all."""
        return bool(self.tensors or self.initializers or self.layers)

    def to_json(self) -> dict[str, Any]:
        """The plan file as plain data (docs/plan-format.md)."""
        return {
            "format": FORMAT,
            "source_sha256": self.source_sha256,
            "binding": dict(sorted(self.binding.items())),
            "groups": [
                {
                    "name": g.name,
                    "kind": g.kind,
                    "size": g.size,
                    "kept": list(g.kept),
                    "scores": list(g.scores),
                    "members": [{"name": n, "axis": a} for n, a in g.members],
                }
                for g in self.groups
            ],
            "tensors": [
                {"value": name, **cut.to_json()}
                for name, cuts in sorted(self.tensors.items())
                for cut in cuts
            ],
            "initializers": [
                {
                    "initializer": use.initializer,
                    "node": use.node,
                    "input": use.input,
                    "axes": {str(c.axis): c.kept.tolist() for c in use.cuts},
                    "cuts": [c.to_json() for c in use.cuts],
                }
                for use in self.initializers
            ],
            "statistics_nodes": {n: list(a) for n, a in sorted(self.statistics_nodes.items())},
            "unpruned": [
                {"node": u.node, "reason": u.reason, "group": u.group} for u in self.unpruned
            ],
            **(
                {"origins": {n: [o, *axes] for n, (o, axes) in sorted(self.origins.items())}}
                if self.origins
                else {}
            ),
            **({"layers": [layer.to_json() for layer in self.layers]} if self.layers else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Raises UsageError when `data` is not a plan of a format that is understood."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise UsageError(f"not a graphprune plan of format {FORMAT}: make one with --save-plan")
        try:
            tensors: dict[str, list[Cut]] = {}
            for entry in data["tensors"]:
                tensors.setdefault(entry["value"], []).append(Cut.from_json(entry))
            return cls(
                source_sha256=str(data["source_sha256"]),
                groups=tuple(
                    GroupChoice(
                        name=g["name"],
                        kind=g["kind"],
                        size=int(g["size"]),
                        kept=tuple(int(i) for i in g["kept"]),
                        scores=tuple(float(s) for s in g.get("scores", ())),
                        members=tuple((m["name"], int(m["axis"])) for m in g.get("members", ())),
                    )
                    for g in data["groups"]
                ),
                tensors={name: tuple(cuts) for name, cuts in tensors.items()},
                initializers=tuple(
                    InitializerCut(
                        initializer=use["initializer"],
                        node=use["node"],
                        input=int(use["input"]),
                        cuts=tuple(Cut.from_json(c) for c in use["cuts"]),
                    )
                    for use in data["initializers"]
                ),
                statistics_nodes={
                    n: tuple(int(i) for i in a) for n, a in data.get("statistics_nodes", {}).items()
                },
                unpruned=tuple(
                    Unpruned(u["node"], u["reason"], u.get("group", ""))
                    for u in data.get("unpruned", ())
                ),
                binding={k: int(v) for k, v in data.get("binding", {}).items()},
                origins={
                    n: (str(o[0]), tuple(int(a) for a in o[1:]))
                    for n, o in data.get("origins", {}).items()
                },
                layers=tuple(LayerCut.from_json(e) for e in data.get("layers", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"damaged plan ({type(error).__name__}: {error})") from error

    def dumps(self) -> str:
        """The plan as JSON; the same plan always gives the same text."""
        return json.dumps(self.to_json(), separators=(",", ":"), sort_keys=True)

    @property
    def sha256(self) -> str:
        """Hash of the decisions: what the pruned model carries as `graphprune.plan_sha256`."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the plan file. Raises UsageError where it cannot be written."""
        from graphprune.files import write_atomically

        write_atomically(Path(path), lambda f: f.write(self.dumps().encode()))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Raises UsageError for a missing file, text that is not JSON, or another format."""
        try:
            data = json.loads(Path(path).read_text())
        except OSError as error:
            raise UsageError(f"cannot read plan {path}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"plan {path} is not JSON: {error}") from error
        return cls.from_json(data)
