"""One look at each image: what is wrong with its file and pixels, and what it is compared by."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import simplejpeg
from PIL import Image

from jtl.data.decode import open_picture, over_background
from jtl.data.sources.protocol import Image as Stored
from jtl.data.sources.protocol import Source
from jtl.errors import ChangedDataError, DataError

SIDE = 48  # pixels of the grey image that near copies are compared by
COLOUR_SIDE = 32  # pixels of the colour image that plain features are made of
CHUNK = 64  # images held at once

_WHITE = (255, 255, 255)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ENOUGH = 256  # a JPEG larger than this is decoded smaller
_SMALL, _NARROW = 32, 3.0  # shorter side, pixels; longer side over the shorter
_FLAT = 2.0  # levels of standard deviation
_DARK, _DARK_TOP = 25, 70  # mean, and 98th percentile, of 255
_BRIGHT, _BRIGHT_FLOOR = 235, 190  # mean, and 2nd percentile
_END_OF_JPEG, _TAIL = b"\xff\xd9", 4096  # bytes after the end that cameras may write
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **{".png": "PNG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP"},
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What one look at an example shows.

    Attributes:
        digest: of what is stored; equal for exact copies.
        problems: kinds of `KINDS` with what is to be said of them, and how bad it is.
        grey: uint8 `[SIDE, SIDE]`; None where the image cannot be read.
        colour: uint8 `[COLOUR_SIDE, COLOUR_SIDE, 3]`.
        phash: bool `[64]`, the perceptual hash.
        fitted: uint8 `[size, size, 3]`, as a network takes it; None without one.
    """

    digest: bytes
    problems: tuple[tuple[str, str, float], ...] = ()
    grey: np.ndarray | None = None
    colour: np.ndarray | None = None
    phash: np.ndarray | None = None
    fitted: np.ndarray | None = None

    def lighter(self) -> "Look":
        """Without what only features are made of."""
        return dataclasses.replace(self, colour=None, fitted=None)


def look_at(
    source: Source,
    fit: Callable[[np.ndarray], np.ndarray] | None,
    *,
    size: int = 0,
    max_pixels: int,
    threads: int,
) -> Iterator[list[Look]]:
    """Every example in order, in chunks, so that memory holds few images at once.

    Args:
        source: the examples.
        fit: to a network's size; None leaves `fitted` out.
        size: of what `fit` gives, pixels.
        max_pixels: of an image; more are refused before they are decoded.
        threads: that decode.

    Raises:
        ChangedDataError: a file was changed since it was listed.
    """

    def one(index: int) -> Look:
        return _look(source, index, fit, size, max_pixels)

    with ThreadPoolExecutor(threads, thread_name_prefix="jtl-check") as pool:
        for start in range(0, len(source), CHUNK):
            yield list(pool.map(one, range(start, min(start + CHUNK, len(source)))))


def _look(
    source: Source,
    index: int,
    fit: Callable[[np.ndarray], np.ndarray] | None,
    size: int,
    max_pixels: int,
) -> Look:
    where = source.name(index)
    try:
        stored = source[index]
    except ChangedDataError:
        raise
    except DataError as error:
        return Look(digest=str(index).encode(), problems=(("unreadable", _said(error), 1.0),))
    digest = _digest(stored)
    if isinstance(stored, bytes) and not stored:
        return Look(digest=digest, problems=(("empty_file", f"{where} is empty", 1.0),))
    try:
        picture = open_picture(stored, where, max_pixels)
        size_as_stored = (picture.height, picture.width)
        enough = max(_ENOUGH, 2 * size)
        pixels = over_background(picture.pixels(min(size_as_stored) / enough), _WHITE)
    except DataError as error:
        return Look(digest=digest, problems=(_failure(stored, where, error),))
    grey = pixels.astype(np.float32) @ _LUMA
    picture_of = Image.fromarray(pixels)
    # Smoothly, so that a copy of another size has the same levels where a pixel covers parts of it.
    small = picture_of.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2)
    problems = [*_file_problems(stored, where), *_pixel_problems(grey, size_as_stored, where)]
    return Look(
        digest=digest,
        problems=tuple(problems),
        grey=np.asarray(small.convert("L")),
        colour=np.asarray(picture_of.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX)),
        phash=_phash(small),
        fitted=None if fit is None else fit(pixels),
    )


def _phash(image: Image.Image) -> np.ndarray:
    import imagehash

    return np.asarray(imagehash.phash(image).hash, bool).ravel()


def _digest(stored: Stored) -> bytes:
    if isinstance(stored, bytes):
        return hashlib.sha256(stored).digest()
    return hashlib.sha256(repr(stored.shape).encode() + stored.tobytes()).digest()


def _said(error: DataError) -> str:
    return str(error).rstrip(".")


def _failure(stored: Stored, where: str, error: DataError) -> tuple[str, str, float]:
    text = _said(error)
    cut = isinstance(stored, bytes) and (
        "truncated" in text
        or (_format(stored) == "JPEG" and _END_OF_JPEG not in stored[-_TAIL:])
        or (_format(stored) == "PNG" and b"IEND" not in stored[-_TAIL:])
    )
    return ("truncated", f"{where} ends too early", 1.0) if cut else ("unreadable", text, 1.0)


def _format(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)


def _file_problems(stored: Stored, where: str) -> Iterator[tuple[str, str, float]]:
    if not isinstance(stored, bytes):
        return
    kind = _format(stored)
    said = _SUFFIXES.get(PurePosixPath(where).suffix.lower())
    if kind is not None and said is not None and kind != said:
        yield "wrong_suffix", f"{where} is a {kind} file", 1.0
    if kind == "JPEG" and (damage := _jpeg_damage(stored)):
        yield "damaged", f"{where}: {damage}", 1.0


def _jpeg_damage(data: bytes) -> str | None:
    """What a strict decoder says of a file that a forgiving one has read."""
    if _END_OF_JPEG not in data[-_TAIL:]:
        return "the end is missing"
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray", "RGB"):
            simplejpeg.decode_jpeg(data, min_height=1, min_width=1)
    except ValueError as error:
        return str(error)
    return None


def _pixel_problems(
    grey: np.ndarray, size: tuple[int, int], where: str
) -> Iterator[tuple[str, str, float]]:
    height, width = size
    mean, deviation = float(grey.mean()), float(grey.std())
    low, high = np.percentile(grey, (2, 98))
    if deviation < _FLAT:
        yield "blank", f"{where} is one even area of level {mean:.0f}", _FLAT - deviation
    elif mean < _DARK and high < _DARK_TOP:
        yield "dark", f"{where} has a mean level of {mean:.0f} of 255", _DARK - mean
    elif mean > _BRIGHT and low > _BRIGHT_FLOOR:
        yield "bright", f"{where} has a mean level of {mean:.0f} of 255", mean - _BRIGHT
    if min(size) < _SMALL:
        yield "small", f"{where} has {width} × {height} pixels", _SMALL - min(size)
    if (aspect := max(size) / min(size)) > _NARROW:
        yield "odd_aspect", f"{where} has {width} × {height} pixels", aspect
