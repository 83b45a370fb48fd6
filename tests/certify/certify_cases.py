"""All hand-written cases."""

from __future__ import annotations

from certify_case import Case
from certify_convolutions import conv_chain, group_norm, residual
from certify_matrices import heads, layer_norm, lstm, reduce_mean
from certify_movement import if_body, means_by_hand, merged_batch, shuffle


def all_cases() -> list[Case]:
    return [
        conv_chain(), residual(), group_norm(21), group_norm(18), heads(), lstm(), layer_norm(),
        reduce_mean(18), reduce_mean(13), means_by_hand(), shuffle(), if_body(), merged_batch(),
    ]  # fmt: skip
