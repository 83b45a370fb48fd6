"""Plans from outside: is one for this module, and what does one of its ONNX export mean here?"""

from __future__ import annotations

from dataclasses import replace

from graphprune.errors import UsageError
from graphprune.plan import Plan
from graphprune.torch.capture import Captured
from graphprune.torch.shorten import named_layers, shortened
from graphprune.torch.subject import TorchSubject
from graphprune.transfer import transfer


def translated(captured: Captured, plan: Plan) -> Plan:
    """A plan of this module as it is, a plan of its ONNX export by the names of parameters."""
    if plan.source_sha256 == captured.sha256:
        return plan
    layers = named_layers(captured, plan.layers)
    if layers and not plan.initializers:
        return Plan(captured.sha256, (), {}, (), unpruned=plan.unpruned, layers=layers)
    subject = TorchSubject(shortened(captured, layers))
    paths = captured.weights.aliases
    aliases = {path: name for name, found in paths.items() for path in found}
    blocks = all(not cut.blocks for use in plan.initializers for cut in use.cuts)
    graph = subject.analyse(blocks=blocks)
    made = transfer(plan, graph, source_sha256=captured.sha256, aliases=aliases)
    return replace(made, layers=layers)


def check_plan(captured: Captured, plan: Plan) -> None:
    """Raises UsageError where a plan cuts what the module does not have, or not of that size."""
    tensors = captured.weights.tensors
    for use in plan.initializers:
        tensor = tensors.get(use.initializer)
        if tensor is None:
            raise UsageError(
                f"the plan cuts '{use.initializer}', which this module does not have: it was made "
                "for another class"
            )
        for cut in use.cuts:
            size = tensor.shape[cut.axis] if cut.axis < tensor.ndim else 0
            if size != cut.size:
                raise UsageError(
                    f"the plan cuts axis {cut.axis} of '{use.initializer}', which has {size} "
                    f"elements here and not {cut.size}: it was made for another size of the class"
                )
