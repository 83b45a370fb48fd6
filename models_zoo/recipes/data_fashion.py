"""Cut the evaluation and calibration sets of the Fashion-MNIST models.

    python -m models_zoo.recipes.data_fashion

The evaluation set is the first part of the test images; the calibration set comes from the training
images that no recipe trains on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from models_zoo.recipes.fashion import DEBIAN_FOLDER, HELD_OUT, read_split

TEST_IMAGES, CALIBRATION_IMAGES = 2000, 512
SHIPPED = Path(__file__).parents[1] / "shipped" / "data"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    test = read_split(options.data, "t10k")
    np.savez_compressed(
        options.out / "fashion-test.npz",
        images=test.images[:TEST_IMAGES],
        labels=test.labels[:TEST_IMAGES],
    )
    held_out = read_split(options.data, "train").images[-HELD_OUT:]
    np.savez_compressed(
        options.out / "fashion-calibration.npz", images=held_out[:CALIBRATION_IMAGES]
    )


if __name__ == "__main__":
    main()
