"""Label rules of ATen ops, one file per family. Importing this package registers them."""

from graphprune.rules.aten import (  # noqa: F401
    attention,
    concat,
    conv,
    einsum,
    elementwise,
    expand,
    gather,
    matmul,
    normalization,
    pool,
    recurrent,
    reduce,
    reshape,
    slice,
)
