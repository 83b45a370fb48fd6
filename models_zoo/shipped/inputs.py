"""From stored arrays (bytes, to keep the files small) to what the models take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BATCH = 250

#: Silero's sequence model reads 512 new samples and the 64 before them, at 16 kHz.
FRAME, CONTEXT = 512, 64

#: Frames of one calibration sequence: 1.3 s. Of several some can be held out.
SEQUENCE = 40


def pixels(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """`images` `(n, 28, 28)` uint8 -> `pixels` `(<=250, 1, 28, 28)` in [0, 1]."""
    images = arrays["images"][:, None].astype(np.float32) / 255
    return [{"pixels": images[i : i + BATCH]} for i in range(0, len(images), BATCH)]


def text_lines(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """`images` `(n, 48, 192)` uint8 grey -> `x` `(<=50, 3, 48, 192)` in [-1, 1]."""
    images = arrays["images"][:, None].astype(np.float32) / 127.5 - 1
    colour = images.repeat(3, axis=1)
    return [{"x": colour[i : i + 50]} for i in range(0, len(colour), 50)]


def frames(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """`audio` `(samples,)` uint8 mu-law at 16 kHz -> one sequence of frames and a zero state.

    The inputs are `input` `(frames, 576)`, `h` and `c` `(1, 1, 128)`.
    """
    signal = expand(arrays["audio"])
    count = len(signal) // FRAME
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), signal[: count * FRAME]])
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
    state = np.zeros((1, 1, 128), np.float32)
    return [{"input": np.ascontiguousarray(windows), "h": state, "c": state.copy()}]


def sequences(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The same in sequences of `SEQUENCE` frames, each from a zero state."""
    (whole,) = frames(arrays)
    starts = range(0, len(whole["input"]), SEQUENCE)
    return [{**whole, "input": whole["input"][i : i + SEQUENCE]} for i in starts]


def compress(signal: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] to eight bits by the mu-law (ITU-T G.711, continuous form)."""
    bent = np.sign(signal) * np.log1p(255 * np.abs(signal)) / np.log(256.0)
    return np.asarray(np.round((bent + 1) * 127.5), np.uint8)


def expand(codes: np.ndarray) -> np.ndarray:
    """The inverse of `compress`, float32."""
    bent = codes.astype(np.float32) / np.float32(127.5) - 1
    return np.asarray(np.sign(bent) * (np.float32(256) ** np.abs(bent) - 1) / 255, np.float32)
