"""Folders of real small images, for tests of sources."""

import io

import numpy as np
from PIL import Image


def image_bytes(level, form="PNG"):
    """A small image file of one grey level."""
    file = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), level, np.uint8)).save(file, form)
    return file.getvalue()


def plant(folder, names):
    """Writes an image under each name, each with another grey level; gives the folder."""
    for level, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(level % 256))
    return folder
