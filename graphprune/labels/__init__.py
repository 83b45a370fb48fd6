"""The label algebra: what leaves together carries the same label. numpy and scipy only.

Every element of a weight axis gets an integer label, labels travel through the graph by the ops
themselves, and elements that end up with the same label leave together. `space` creates, equates
and solves labels; `tensor` is the state of one tensor; `move`, `concat` and `meet` are the primitives that op
rules are written in. Nothing here knows ONNX or torch.
"""

from graphprune.labels.algebra import Algebra
from graphprune.labels.meet import Met
from graphprune.labels.space import PINNED, Classes, LabelSpace, Pin, unique
from graphprune.labels.tensor import Factor, Labels

__all__ = ["PINNED", "Algebra", "Classes", "Factor", "LabelSpace", "Labels", "Met", "Pin", "unique"]
