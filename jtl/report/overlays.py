"""What a run says of images, each written with what the network looked at laid over it."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from jtl.data.reader import Reader
from jtl.errors import ConfigError
from jtl.experiment.predict import Prediction
from jtl.experiment.run import Run
from jtl.report.explain import gradcam, overlay

_AT_ONCE = 32  # images whose maps are computed in one program
_SEEN = 224  # pixels that the side of a picture has at least


def make_folder(folder: Path) -> None:
    """Makes the folder of overlays, which may exist but hold nothing.

    Raises:
        ConfigError: something is there, or nothing can be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = next(folder.iterdir(), None)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error.strerror}); choose another.") from error
    if there is not None:
        raise ConfigError(f"{folder} holds {there.name} already; choose another folder.")


def explained(
    run: Run, predictions: Iterable[Prediction], reader: Reader, folder: Path
) -> Iterator[Prediction]:
    """Passes predictions on, each with the picture that shows what spoke for its best class.

    Args:
        run: whose predictions they are.
        predictions: one for each of the reader's images, in order.
        reader: of the images.
        folder: of the pictures, which exists.

    Raises:
        ConfigError: a picture cannot be written.
    """
    places = {name: place for place, name in enumerate(run.classes)}
    names = _Names()
    numbered = enumerate(predictions)
    while part := list(itertools.islice(numbered, _AT_ONCE)):
        known = [(index, own) for index, own in part if not own.problem]
        paths: dict[int, str] = {}
        if known:
            rows = np.array([index for index, _ in known])
            pixels = reader.gather(rows)["image"]
            classes = np.array([places[own.classes[0]] for _, own in known])
            for (index, own), picture in zip(known, _pictures(run, pixels, classes)):
                paths[index] = str(_save(picture, folder / names.unused(own.image)))
        for index, own in part:
            yield dataclasses.replace(own, overlay=paths.get(index, ""))


def _pictures(run: Run, pixels: np.ndarray, classes: np.ndarray) -> list[Image.Image]:
    # A last, smaller part would be a program of its own.
    missing = -len(pixels) % _AT_ONCE if len(pixels) > 1 else 0
    padded = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
    wanted = np.concatenate([classes, np.repeat(classes[-1:], missing)])
    maps = gradcam(run.model, run.variables, run.preprocess.normalize(padded), wanted)
    return [_enlarged(overlay(image, heat)) for image, heat in zip(pixels, maps)]


def _enlarged(image: np.ndarray) -> Image.Image:
    times = -(-_SEEN // image.shape[0])
    picture: Any = Image.fromarray(image)
    return picture.resize(
        (image.shape[1] * times, image.shape[0] * times), Image.Resampling.NEAREST
    )


def _save(picture: Image.Image, path: Path) -> Path:
    try:
        picture.save(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


class _Names:
    """Names of pictures after those of images, of which two may be the same."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def unused(self, image: str) -> str:
        stem = PurePath(image).stem or "image"
        tries = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        # Two names that differ in case alone are one file in some file systems.
        name = next(own for own in tries if own.lower() not in self._given)
        self._given.add(name.lower())
        return f"{name}.png"
