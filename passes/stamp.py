"""Note in the model's metadata what made it. Nothing else of the metadata changes."""

from __future__ import annotations

import onnx_ir as ir

from graphprune.plan import Plan

__all__ = ["StampPass"]


class StampPass(ir.passes.InPlacePass):
    """Append `graphprune.version`, `graphprune.plan_sha256` and `graphprune.source_sha256`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """No time, no host: the same input and plan give the same bytes."""
        from graphprune import __version__

        model.metadata_props["graphprune.version"] = __version__
        model.metadata_props["graphprune.plan_sha256"] = self.plan.sha256
        model.metadata_props["graphprune.source_sha256"] = self.plan.source_sha256
        return ir.passes.PassResult(model, modified=True)
