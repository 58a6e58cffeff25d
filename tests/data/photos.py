"""Folders of small photographs of several sizes and formats, for tests of reading."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from jtl.data.sources.folders import load_folder

SIZES = ((40, 56), (61, 33), (20, 20), (24, 90), (33, 34), (50, 41))  # height, width


def photo(index, size=None, mode="RGB"):
    """Smooth colours of its own for each index, as a photograph has."""
    height, width = size or SIZES[index % len(SIZES)]
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (4, 4, len(mode)), dtype=np.uint8)
    return Image.fromarray(coarse, mode).resize((width, height), Image.Resampling.BICUBIC)


def photo_bytes(index, form="JPEG", **how):
    """The same as a file's bytes."""
    file = io.BytesIO()
    photo(index, **how).save(file, form)
    return file.getvalue()


def photo_folder(root, count=12, classes=2):
    """A source of a folder of class folders, every fourth file a PNG with alpha."""
    for index in range(count):
        alpha = index % 4 == 3
        form, mode = ("PNG", "RGBA") if alpha else ("JPEG", "RGB")
        path = Path(root) / f"class{index % classes}" / f"{index:03}.{form.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo_bytes(index, form, mode=mode))
    return load_folder(root)
