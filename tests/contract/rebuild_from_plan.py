"""From an ONNX file and a plan file to the masked original and the pruned model.

    python rebuild_from_plan.py MODEL.onnx PLAN.json MASKED.onnx PRUNED.onnx

Written against the contract alone, with numpy and onnx: no line of graphprune is used. The masked
original multiplies every tensor that the plan cuts by 0 where an index left, and the weights of
recurrent layers, whose units feed themselves. The pruned model has every cut use of an initializer
sliced, and literal sizes counted anew (group, Reshape, Split).
"""

import json
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper


def gathered(array, cuts):
    """What stays of an array; where blocks keep different sets, block by block."""
    for cut in sorted(cuts, key=lambda c: len(c.get("blocks", ()))):
        kept, axes = np.asarray(cut["kept"]), [*cut.get("blocks", ()), cut["axis"]]
        moved = np.moveaxis(array, axes, range(len(axes)))
        rows = np.stack([moved[i][kept[i]] for i in np.ndindex(*kept.shape[:-1])])
        moved = rows.reshape(*kept.shape, *moved.shape[len(axes) :])
        array = np.moveaxis(moved, range(len(axes)), axes)
    return array


def mask(rank, cuts):
    """1 where an element stays, 0 where it left, shaped to be broadcast against the tensor."""
    shape = [1] * rank
    for cut in cuts:
        shape[cut["axis"]] = cut["size"]
        for axis, rows in zip(cut.get("blocks", ()), np.shape(cut["kept"]), strict=False):
            shape[axis] = max(shape[axis], rows)
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return np.isin(numbers, gathered(numbers, cuts)).astype(np.float32)


def masked(model, plan, cuts, ranks):
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    by_name = {n.name or n.output[0]: n for n in model.graph.node}
    for number, use in enumerate(plan["initializers"]):
        if by_name[use["node"]].op_type in ("LSTM", "GRU", "RNN"):
            array, name = arrays[use["initializer"]], f"{use['initializer']}.masked{number}"
            array = array * mask(array.ndim, use["cuts"])
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            by_name[use["node"]].input[use["input"]] = name
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in cuts:
                array = numpy_helper.from_array(mask(ranks[name], cuts[name]), f"{name}.mask")
                model.graph.initializer.append(array)
                node.output[i] = f"{name}.whole"
                nodes.append(helper.make_node("Mul", [f"{name}.whole", f"{name}.mask"], [name]))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model


def pruned(model, plan, cuts):
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}

    def put(node, i, name, array):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        arrays[name], node.input[i] = array, name

    by_name = {n.name or n.output[0]: n for n in model.graph.node}
    for number, use in enumerate(plan["initializers"]):
        array = gathered(arrays[use["initializer"]], use["cuts"])
        name = f"{use['initializer']}.kept{number}"
        put(by_name[use["node"]], use["input"], name, np.ascontiguousarray(array))
    for node in model.graph.node:
        here = [cuts[o][0] if o in cuts else None for o in node.output]
        for attribute in node.attribute:
            if attribute.name == "group" and node.input[0] in cuts:
                count = np.shape(cuts[node.input[0]][0]["kept"])[-1]
                attribute.i = count // arrays[node.input[1]].shape[1]
        if node.op_type == "Reshape" and here[0] and node.input[1] in arrays:
            sizes = arrays[node.input[1]].copy()
            sizes[here[0]["axis"]] = len(here[0]["kept"])
            put(node, 1, f"{node.output[0]}.sizes", sizes)
        if node.op_type == "Split" and len(node.input) > 1 and all(here):
            put(node, 1, f"{node.output[0]}.sizes", np.array([len(c["kept"]) for c in here]))
    del model.graph.value_info[:]
    return model


def main(path, plan_path, masked_path, pruned_path):
    with open(plan_path) as file:
        plan = json.load(file)
    cuts = {}
    for cut in plan["tensors"]:
        cuts.setdefault(cut["value"], []).append(cut)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    infos = [*graph.value_info, *graph.output]
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in infos}
    onnx.save(masked(onnx.load(path), plan, cuts, ranks), masked_path)
    onnx.save(pruned(onnx.load(path), plan, cuts), pruned_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
