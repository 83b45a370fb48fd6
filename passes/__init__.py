"""Everything that changes an ONNX graph, one pass a file, each usable alone.

All are `onnx_ir.passes.InPlacePass` and compose with `onnx_ir.passes.Sequential`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphprune.passes.compensate import CompensatePass
    from graphprune.passes.drop_empty import DropEmptyPass
    from graphprune.passes.drop_identity_gathers import DropIdentityGathersPass
    from graphprune.passes.drop_layers import DropLayersPass
    from graphprune.passes.drop_zero_states import DropZeroStatesPass
    from graphprune.passes.fold_initializers import FoldInitializersPass
    from graphprune.passes.gather_channel_shuffles import GatherChannelShufflesPass
    from graphprune.passes.prune import PrunePass
    from graphprune.passes.sparsify import SparsifyPass
    from graphprune.passes.stamp import StampPass
    from graphprune.passes.trim_vocabulary import TrimVocabularyPass

_WHERE = {
    "CompensatePass": "compensate",
    "DropEmptyPass": "drop_empty",
    "DropIdentityGathersPass": "drop_identity_gathers",
    "DropLayersPass": "drop_layers",
    "DropZeroStatesPass": "drop_zero_states",
    "FoldInitializersPass": "fold_initializers",
    "GatherChannelShufflesPass": "gather_channel_shuffles",
    "PrunePass": "prune",
    "SparsifyPass": "sparsify",
    "StampPass": "stamp",
    "TrimVocabularyPass": "trim_vocabulary",
}
__all__ = [
    "CompensatePass",
    "DropEmptyPass",
    "DropIdentityGathersPass",
    "DropLayersPass",
    "DropZeroStatesPass",
    "FoldInitializersPass",
    "GatherChannelShufflesPass",
    "PrunePass",
    "SparsifyPass",
    "StampPass",
    "TrimVocabularyPass",
]


def __getattr__(name: str) -> Any:
    """Import a pass when it is asked for: onnx and scipy take a while."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
