"""Output types of one node: by our own rules, else by onnx's inference of a single node.

Only types travel, and the contents of small operands; the result is cached, so that the layers of a
network that are alike are inferred once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import onnx
import onnx_ir as ir

from graphprune.onnx.checks import one_line
from graphprune.onnx.shape_rules import NEEDS_CONTENTS, RULES, NodeInputs, Typed, Unknown
from graphprune.onnx.shape_rules_fused import ALIASES

_DATA_LIMIT = 256  # contents up to here are handed to onnx's inference
_HASHABLE = frozenset(
    {
        ir.AttributeType.FLOAT,
        ir.AttributeType.INT,
        ir.AttributeType.STRING,
        ir.AttributeType.FLOATS,
        ir.AttributeType.INTS,
        ir.AttributeType.STRINGS,
    }
)


class NodeTypes:
    """Infers output types node by node.

    Args:
        opsets: Domain -> version of the model.
    """

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self._opsets = {("" if d == "ai.onnx" else d): v for d, v in opsets.items()}
        self._cache: dict[Hashable, Sequence[Typed | None]] = {}

    def infer(self, x: NodeInputs) -> Sequence[Typed | None]:
        """`(dtype, dims)` of each output; dims are -1 where a size depends on data, and the whole
        is None for an output of unknown rank. Raises Unknown where nothing can be said."""
        domain = "" if x.node.domain == "ai.onnx" else x.node.domain
        rule = RULES.get((domain, x.node.op_type))
        if rule is None:
            return self._cached(x, domain)
        try:
            return rule(x)
        except (ValueError, IndexError, TypeError) as error:
            raise Unknown(f"inputs do not fit ({error})") from error

    def _cached(self, x: NodeInputs, domain: str) -> Sequence[Typed | None]:
        op = ALIASES.get((domain, x.node.op_type), x.node.op_type)
        domain = "" if (domain, x.node.op_type) in ALIASES else domain
        reads = op in NEEDS_CONTENTS
        data = tuple(
            a.tobytes() if reads and a is not None and a.size <= _DATA_LIMIT else None
            for a in x.values
        )
        attrs = tuple(_attribute_key(a) for a in x.node.attributes.values())
        types = (tuple(x.dims), tuple(x.dtypes), len(x.node.outputs))
        key = (domain, op, x.node.version, attrs, types, data)
        if key not in self._cache:
            self._cache[key] = self._ask_onnx(x, op, domain, data)
        return self._cache[key]

    def _ask_onnx(
        self, x: NodeInputs, op: str, domain: str, data: Sequence[bytes | None]
    ) -> Sequence[Typed | None]:
        node = x.node
        version = node.version or self._opsets.get(domain) or onnx.defs.onnx_opset_version()
        try:
            schema = onnx.defs.get_schema(op, version, domain)
        except onnx.defs.SchemaError:
            raise Unknown("no shape inference for this op") from None
        proto = onnx.NodeProto(op_type=op, domain=domain)
        known = set(schema.attributes) if op != node.op_type else None
        types: dict[str, onnx.TypeProto] = {}
        contents: dict[str, onnx.TensorProto] = {}
        given = node.inputs
        if op != node.op_type:  # a fused op reads more than the op it is like (FusedConv's sum)
            given = given[: schema.max_input]
        for i, value in enumerate(given):
            proto.input.append("" if value is None else f"i{i}")
            if value is None:
                continue
            types[f"i{i}"] = onnx.helper.make_tensor_type_proto(int(x.dtypes[i] or 0), x.dims[i])
            array = x.values[i]
            if data[i] is not None and array is not None:
                contents[f"i{i}"] = onnx.numpy_helper.from_array(array, f"i{i}")
        proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
        try:
            for attr in node.attributes.values():
                if known is None or attr.name in known:
                    proto.attribute.append(ir.serde.serialize_attribute(attr))
            opsets = [onnx.helper.make_opsetid(domain, version)]
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, contents, opset_imports=opsets
            )
        except Exception as error:  # onnx raises several unrelated classes here
            raise Unknown(f"inputs do not fit ({one_line(error)})") from error
        return [_typed(inferred.get(name)) for name in proto.output]


def _attribute_key(attr: ir.Attr) -> Hashable:
    if attr.type in _HASHABLE:
        return (attr.name, attr.value if not isinstance(attr.value, list) else tuple(attr.value))
    if attr.type == ir.AttributeType.TENSOR and attr.value.dtype != ir.DataType.STRING:
        return (attr.name, attr.value.dtype, attr.value.tobytes())
    return (attr.name, id(attr))  # graphs, types: never shared


def _typed(proto: onnx.TypeProto | None) -> Typed | None:
    if proto is None or not proto.HasField("tensor_type"):
        return None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return (ir.DataType(tensor.elem_type) if tensor.elem_type else None, dims)
