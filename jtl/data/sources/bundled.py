"""The sources that come with a library, by name."""

import importlib.util
from pathlib import Path

import numpy as np

from jtl.data.glyphs import GlyphOptions, GlyphSet, render_glyphs
from jtl.data.sources.arrays import ArraySource


def digits() -> ArraySource:
    """The 1,797 handwritten digits that scikit-learn ships, 8×8 grey.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998; its test part.
    """
    pixels, labels = _digits()
    grey = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    return ArraySource(
        images=images,
        labels=labels.astype(np.int32),
        classes=tuple(str(name) for name in range(10)),
        provenance={
            "dataset": "Optical Recognition of Handwritten Digits (test part), by scikit-learn",
            "licence": "CC BY 4.0",  # archive.ics.uci.edu/dataset/80
        },
    )


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels from 0 to 16, float64 `[examples, 64]`, and labels.

    scikit-learn takes seconds to import, so its file is read without it where it can be found.
    """
    found = importlib.util.find_spec("sklearn")
    folders = [] if found is None else found.submodule_search_locations or []
    for folder in folders:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.data, raw.target


def glyphs(options: GlyphOptions) -> ArraySource:
    """Characters rendered from fonts.

    Args:
        options: which fonts and characters.
    """
    drawn = render_glyphs(options)
    return ArraySource(
        images=drawn.images,
        labels=drawn.labels,
        classes=drawn.classes,
        provenance={"fonts by licence": _by_licence(drawn)},
    )


def _by_licence(drawn: GlyphSet) -> dict[str, list[str]]:
    """The fonts under each licence, with the first digits of each file's SHA-256."""
    found: dict[str, list[str]] = {}
    for font in drawn.fonts:
        name = f"{font.family} {font.style} ({font.file}, {font.digest[:12]})"
        found.setdefault(font.license, []).append(name)
    return found
