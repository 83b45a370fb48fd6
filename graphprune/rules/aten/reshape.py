"""Views: axes are re-bracketed or permuted."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.base import positive
from graphprune.torch.context import AtenContext
from graphprune.torch.resize import AtenResize


def resize_view(r: AtenResize) -> None:
    """Every entry of the target that names a size becomes the new size."""
    name = "shape" if "shape" in r.call.arguments else "size"
    r.set_sizes(name, r.new_out())


@aten_rule("view", "reshape", "_unsafe_view", "view_copy", resize=resize_view)
def view(ctx: AtenContext) -> None:
    """Row-major re-bracketing."""
    if "dtype" in ctx.call.arguments:
        ctx.boundary("it reads the bits as another type")
        return
    ctx.reshaped(ctx.moved(0))


@aten_rule("flatten", "squeeze", "unsqueeze", "ravel")
def as_it_comes(ctx: AtenContext) -> None:
    """Re-bracketing that names axes, not sizes."""
    ctx.reshaped(ctx.moved(0))


@aten_rule("view_as", "reshape_as")
def as_another(ctx: AtenContext) -> None:
    """Re-bracketing to the shape of another tensor, which must lose the same."""
    like(ctx, ctx.alg.reshape(ctx.moved(0), ctx.out_shape()))


def like(ctx: AtenContext, t: Labels) -> None:
    """Set the result to `t`, which has the sizes of operand 1."""
    other = ctx.labels(1)
    met = ctx.alg.meet([t, other], create=[])
    if other.weight:
        ctx.adopt(1, met.operands[1])
    ctx.set(met.factors)


def resize_unflatten(r: AtenResize) -> None:
    """`sizes` stands in place of axis `dim`."""
    axis = positive(int(r.arg("dim")), len(r.old("self")))
    sizes = r.call.arguments["sizes"]
    r.set_sizes("sizes", r.new_out()[axis : axis + len(sizes)])


@aten_rule("unflatten", resize=resize_unflatten)
def unflatten(ctx: AtenContext) -> None:
    """One axis becomes several."""
    ctx.reshaped(ctx.moved(0))


def _permuted(ctx: AtenContext, order: list[int]) -> None:
    ctx.set(ctx.alg.transpose(ctx.moved(0), order))


@aten_rule("permute", "permute_copy")
def permute(ctx: AtenContext) -> None:
    """Axes in the order of `dims`."""
    rank = len(ctx.shape(0))
    _permuted(ctx, [positive(int(a), rank) for a in ctx.arg("dims")])


@aten_rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "transpose_copy")
def transpose(ctx: AtenContext) -> None:
    """Two axes change places; `t` and `mT`: the last two."""
    rank = len(ctx.shape(0))
    order = list(range(rank))
    if ctx.op == "numpy_T":
        order.reverse()
    elif rank > 1:
        names = [n for n in ctx.call.arguments if n.startswith(("dim", "axis"))]
        pair = [ctx.arg(n) for n in names] if len(names) == 2 else [-2, -1]
        a, b = (positive(int(x), rank) for x in pair)
        order[a], order[b] = order[b], order[a]
    _permuted(ctx, order)


@aten_rule("movedim", "moveaxis")
def movedim(ctx: AtenContext) -> None:
    """Axes `source` go to the places `destination`."""
    rank = len(ctx.shape(0))
    source, target = ctx.arg("source"), ctx.arg("destination")
    source = source if isinstance(source, list) else [source]
    target = target if isinstance(target, list) else [target]
    places = {
        positive(int(d), rank): positive(int(s), rank) for s, d in zip(source, target, strict=True)
    }
    rest = iter([a for a in range(rank) if a not in places.values()])
    _permuted(ctx, [places[a] if a in places else next(rest) for a in range(rank)])


@aten_rule("pixel_shuffle")
def pixel_shuffle(ctx: AtenContext) -> None:
    """`[..., C * r * r, H, W] -> [..., C, H * r, W * r]`."""
    x = ctx.moved(0)
    r = int(ctx.arg("upscale_factor"))
    lead, (channels, height, width) = x.shape[:-3], x.shape[-3:]
    n = len(lead)
    t = ctx.alg.reshape(x, (*lead, channels // (r * r), r, r, height, width))
    t = ctx.alg.tie_across(t, range(n + 1, n + 5), "it becomes positions")
    names = {a: a for a in range(n + 1)} | {n + 3: n + 1, n + 4: n + 2}
    ctx.set(ctx.alg.rename(Labels(t.shape, t.factors), names, ctx.out_shape()))


@aten_rule("pixel_unshuffle")
def pixel_unshuffle(ctx: AtenContext) -> None:
    """`[..., C, H * r, W * r] -> [..., C * r * r, H, W]`."""
    x = ctx.moved(0)
    r = int(ctx.arg("downscale_factor"))
    n = x.rank - 3
    t = ctx.alg.tie_across(x, [n + 1, n + 2], "positions become channels")
    wide = Labels((*x.shape[: n + 1], 1), t.factors)
    spread = ctx.alg.broadcast(wide, (*x.shape[: n + 1], r * r))
    kept = Labels(spread.shape, tuple(f for f in spread.factors if n + 1 not in f.axes))
    flat = ctx.alg.reshape(kept, (*x.shape[:n], x.shape[n] * r * r))
    ctx.set(Labels(ctx.out_shape(), flat.factors))


@aten_rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(ctx: AtenContext) -> None:
    """`[N, g * c, *] -> [N, c * g, *]`: the same of every group leave."""
    x = ctx.moved(0)
    g = int(ctx.arg("groups"))
    t = ctx.alg.reshape(x, (x.shape[0], g, x.shape[1] // g, *x.shape[2:]))
    t = ctx.alg.transpose(t, [0, 2, 1, *range(3, t.rank)])
    ctx.reshaped(t)


@aten_rule("view_as_complex", "view_as_real", "complex")
def complex_view(ctx: AtenContext) -> None:
    """Pairs of numbers are one: `[..., 2]` and `[...]`."""
    x = ctx.moved(0)
    rank = min(x.rank, len(ctx.out_shape()))
    t = ctx.alg.tie_across(x, range(rank, x.rank), "a complex number has two parts")
    ctx.set(Labels(ctx.out_shape(), t.factors).factors)
