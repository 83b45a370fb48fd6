"""Make the labelled speech of the voice activity detector.

    python -m models_zoo.recipes.data_speech

The clips are those of Debian's package `pocketsphinx-testdata` (16 kHz; LibriVox readings, in the
public domain, and recordings of the CMU Sphinx project, BSD). Between them stands silence, pink
noise lies over everything, and a frame's label is the energy of the clean clip: speech within 30 dB
of the clip's loud frames, silence 40 dB or more below them. Frames between the two bounds are not
scored.
"""

from __future__ import annotations

import argparse
import wave
from pathlib import Path

import numpy as np

from graphprune.zoo.inputs import FRAME, compress
from models_zoo.recipes.data_fashion import SHIPPED

DEBIAN_FOLDER = Path("/usr/share/pocketsphinx/test/data")
RATE = 16000
NOISE_DB = 12.0
SPEECH_DB, SILENCE_DB = -30.0, -40.0
LABELS = {"speech": 1, "silence": 0, "unscored": 2}

_READING = "librivox/sense_and_sensibility_01_austen_64kb-"
EVALUATION = [f"{_READING}{n}.wav" for n in ("0870", "0890", "0930")]
CALIBRATION = [f"{_READING}{n}.wav" for n in ("0880", "0920")] + ["cards/005.wav", "numbers.raw"]


def read(path: Path) -> np.ndarray:
    """A 16-bit mono clip (wav, or raw samples) as float64 in [-1, 1]."""
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
                raise ValueError(f"{path} is not 16 kHz 16-bit mono")
            samples = file.readframes(file.getnframes())
    else:
        samples = path.read_bytes()
    return np.frombuffer(samples, np.int16).astype(np.float64) / 32768


def track(clips: list[np.ndarray], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Clips with 0.6 to 1.6 s of silence around them, with noise: samples and a label a frame."""
    clean, labels = [], []
    for clip in clips:
        clip = clip / np.sqrt((clip**2).mean()) * 0.05
        frames = np.concatenate([clip, np.zeros(-len(clip) % FRAME)]).reshape(-1, FRAME)
        level = 10 * np.log10((frames**2).mean(1) + 1e-12)
        level -= np.quantile(level, 0.9)
        kinds = np.where(level > SPEECH_DB, LABELS["speech"], LABELS["unscored"])
        kinds[level < SILENCE_DB] = LABELS["silence"]
        pause = int(random.integers(20, 50))
        clean += [np.zeros(pause * FRAME), frames.ravel()]
        labels += [np.full(pause, LABELS["silence"]), kinds]
    clean.append(np.zeros(20 * FRAME))
    labels.append(np.full(20, LABELS["silence"]))
    signal = np.concatenate(clean)
    noise = pink(len(signal), random) * 0.05 * 10 ** (-NOISE_DB / 20)
    return signal + noise, np.concatenate(labels).astype(np.uint8)


def pink(count: int, random: np.random.Generator) -> np.ndarray:
    """Noise of unit power whose spectrum falls by 3 dB an octave."""
    spectrum = np.fft.rfft(random.normal(size=count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, count)
    return noise / np.sqrt((noise**2).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    audio, labels = track([read(options.data / name) for name in EVALUATION], random)
    np.savez_compressed(options.out / "speech-test.npz", audio=compress(audio), labels=labels)
    audio, _ = track([read(options.data / name) for name in CALIBRATION], random)
    np.savez_compressed(options.out / "speech-calibration.npz", audio=compress(audio))


if __name__ == "__main__":
    main()
