"""The copy of a graph that is analysed, beside the user's own graph that is rewritten."""

from __future__ import annotations

import onnx_ir as ir


def canonicalise(model: ir.Model) -> ir.Model:
    """A copy of `model` in which every weight is an initializer; tensors are shared, not copied.

    Gathers that read a tensor back as it was are dropped: they would mix the batch with
    channels. So are zeros made for the initial states of recurrent layers: they would couple layers.

    Values keep their names: a folded weight has the name of the value that its consumer reads in
    the original (behind an Identity, of the initializer; of nodes that compute the same, of the
    first one's result), so what is decided on the copy can be said of the original.
    """
    from graphprune.passes.drop_identity_gathers import DropIdentityGathersPass
    from graphprune.passes.drop_zero_states import DropZeroStatesPass
    from graphprune.passes.fold_initializers import FoldInitializersPass
    from graphprune.passes.gather_channel_shuffles import GatherChannelShufflesPass

    copy = model.clone()
    FoldInitializersPass()(copy)
    DropIdentityGathersPass()(copy)
    GatherChannelShufflesPass()(copy)
    DropZeroStatesPass()(copy)
    return copy
