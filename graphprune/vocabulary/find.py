"""Where tokens are numbered in a model, by following the graph: no name is looked at.

A table of token embeddings is what an integer input of the model, as it is, picks rows of
(`lookups.py`). Its other uses are followed to heads and logits (`follow.py`).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.passes.trim_vocabulary import VocabularyUse
from graphprune.vocabulary.follow import TokenAxes
from graphprune.vocabulary.lookups import IdUses, captures, follow_ids, lookups

SPARE = 0.05
"""Share of rows by which a model's table may be longer than the tokenizer's vocabulary."""

_SPARE_ROWS = 64


def find_vocabulary(model: ir.Model, tokens: int) -> VocabularyUse:
    """Everything that is numbered by token id.

    Args:
        model: Constants lifted to initializers.
        tokens: Ids of the tokenizer (its largest + 1).

    Raises:
        UsageError: No table fits a vocabulary of this size.
        UnsupportedModelError: The model does something with tokens that trimming would change.
    """
    found = list(lookups(model.graph))
    spare = max(_SPARE_ROWS, int(SPARE * tokens))
    fitting = [x for x in found if tokens <= x.rows <= tokens + spare]
    if not fitting:
        seen = ", ".join(sorted({f"'{x.table.name}' {x.rows:,}" for x in found}))
        raise UsageError(
            f"the tokenizer has {tokens:,} tokens, but no table of the model that is looked up by "
            f"an integer input has as many rows ({seen or 'there is no such table'}): is it the "
            "tokenizer of this model?"
        )
    rows = {x.rows for x in fitting}
    if len(rows) > 1:
        raise UnsupportedModelError(
            f"tables of {' and '.join(f'{r:,}' for r in sorted(rows))} rows fit the tokenizer: "
            "trimming takes models with one vocabulary"
        )
    for graph in model.graph.subgraphs():
        if any(n.op_type == "Gather" for n in graph) and captures(graph, fitting):
            raise UnsupportedModelError(
                "the body of a loop or branch reads the token embeddings, which trimming does not "
                "follow"
            )
    inputs = tuple(dict.fromkeys(x.ids for x in fitting))
    tables = list({id(x.table): x.table for x in fitting}.values())
    ids = IdUses()
    for name in inputs:
        follow_ids(next(v for v in model.graph.inputs if v.name == name), tables, ids)
    over_tokens = TokenAxes(model, rows.pop(), tables)
    over_tokens.follow()
    over_tokens.note_whole_outputs()
    return VocabularyUse(
        rows=over_tokens.rows,
        inputs=inputs,
        tables=tuple(dict.fromkeys(t.name or "" for t in tables)),
        axes=dict(sorted(over_tokens.axes.items())),
        values=tuple(over_tokens.values),
        outputs=tuple(v.name or "" for v in model.graph.outputs if v.name in over_tokens.values),
        echoes=tuple(dict.fromkeys(ids.echoes)),
        constants=tuple(dict.fromkeys(ids.constants)),
        notes=tuple(dict.fromkeys((*ids.notes, *over_tokens.notes))),
    )


def as_ids(array: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Old ids, all of them kept, as new ones."""
    return np.searchsorted(kept, array).astype(array.dtype)
