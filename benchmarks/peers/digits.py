"""The handwritten digits of scikit-learn as scripts read them: 32×32, normalised, split."""

import json
import time
from collections.abc import Iterator

import numpy as np

BATCH, RATE, DECAY = 64, 3e-3, 0.01
WIDTHS = (8, 32, 128)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and validation images, float32 `[n, 32, 32, 3]`, with labels, int64 `[n]`.

    They are as many as jtl's recipe has: 1,077 and 360; the test split is left alone.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    grey = np.round(raw.images * 255 / 16).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BILINEAR)) for one in grey
    ]
    scaled = np.stack(large)[..., None].astype(np.float32) / 255
    images = (scaled - np.float32(MEAN)) / np.float32(STD)
    labels = raw.target.astype(np.int64)
    rest, _, rest_labels, _ = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=seed
    )
    train, val, train_labels, val_labels = train_test_split(
        rest, rest_labels, test_size=360, stratify=rest_labels, random_state=seed
    )
    return (train, train_labels), (val, val_labels)


def shuffled(examples: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The places of each whole batch of an epoch."""
    order = np.random.default_rng((seed, epoch)).permutation(examples)
    for start in range(0, examples - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def say(epoch: int, accuracy: float) -> None:
    """One line of JSON for who waits for the accuracy."""
    print(json.dumps({"epoch": epoch, "accuracy": accuracy, "at": time.time()}), flush=True)
