"""Images kept on disk at the size that evaluation resizes to, for all runs on the same data."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import simplejpeg

from jtl.data.decode import MAX_PIXELS, Picture, check_size, open_picture
from jtl.data.progress import told
from jtl.data.sources.names import shown
from jtl.data.sources.protocol import Source
from jtl.errors import ChangedDataError, DataError

Form = Literal["resized", "raw"]
Shrink = Callable[[np.ndarray], np.ndarray]

_VERSION = 1  # of what is kept; another one is made anew
_QUALITY = 80  # of JPEG, with half the colours' resolution, as photographs mostly come
_DATA, _INDEX = "images.bin", "index.npz"
_AT_ONCE = 256  # images, whose shrunk pixels are in memory together
# Read from the source, the bytes of the source, pixels, a JPEG file that was written here.
_NOT_KEPT, _SAME, _PIXELS, _SMALLER = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeptImages:
    """Images of a source as they were kept; opened when they are first read, in each process.

    Attributes:
        source: the examples, which are read where one was not kept.
        folder: of the two files that hold the images.
        max_pixels: of an image at its own size; more are refused.
    """

    source: Source
    folder: Path
    max_pixels: int = MAX_PIXELS

    def picture(self, index: int) -> Picture:
        """One image, of its own height and width, whose pixels are fewer.

        Raises:
            DataError: it cannot be read, nor could it when the others were kept.
        """
        kept, where = self._index, self.source.where(index)
        kind = int(kept.kind[index])
        if kind == _NOT_KEPT:
            return open_picture(self.source[index], where, self.max_pixels)
        height, width = kept.size[index].tolist()
        check_size(height, width, where, self.max_pixels)
        stored = self._data[kept.start[index] : kept.start[index + 1]]
        if kind == _PIXELS:
            pixels = stored.reshape(*kept.shape[index], -1)
            return Picture(height=height, width=width, decode=lambda _: pixels)
        data = stored.tobytes()
        if kind == _SAME:
            return open_picture(data, where, self.max_pixels)
        return Picture(height=height, width=width, decode=lambda _: _decoded(data, where))

    @cached_property
    def _index(self) -> "_Index":
        return _read_index(self.folder)

    @cached_property
    def _data(self) -> np.ndarray:
        return _mapped(self.folder / _DATA)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: no open file."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def keep_images(
    source: Source,
    *,
    form: Form,
    folder: Path,
    shrink: Shrink,
    identity: Mapping[str, Any],
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> KeptImages:
    """The source's images at a smaller size, made once and found again by all later runs.

    An image that is no larger is kept as it is, and one that cannot be read is left to be read
    again. They are written under another name first, by one process at a time: what has its name
    is whole.

    Args:
        source: the examples.
        form: `resized` keeps JPEG files, `raw` pixels.
        folder: where those of all sources are kept, by what they are a function of.
        shrink: an image to the smaller size, uint8 `[height, width, 3 or 4]` to 3 channels; the
            very same array where it is no larger.
        identity: what `shrink` does, fit for JSON.
        threads: that decode.
        max_pixels: of an image at its own size.

    Raises:
        DataError: the folder cannot be written, its disk is full, or a file of the source is not
            what it was when it was listed.
    """
    said = [_VERSION, form, _QUALITY if form == "resized" else None, dict(identity)]
    text = json.dumps([source.fingerprint, *said], sort_keys=True)
    own = folder / hashlib.sha256(text.encode()).hexdigest()[:32]
    kept = KeptImages(source=source, folder=own, max_pixels=max_pixels)
    if not _is_whole(own):
        with _writing(folder), _locked(own):
            if not _is_whole(own):
                _make(own, source, form, shrink, threads, max_pixels)
    return kept


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Index:
    """Where each image lies, and what it is.

    Attributes:
        start: int64 `[examples + 1]`, bytes.
        kind: uint8 `[examples]`, how it is kept.
        size: int32 `[examples, 2]`, height and width of the upright image.
        shape: int32 `[examples, 2]`, of the pixels that are kept; 0 of a file's bytes.
    """

    start: np.ndarray
    kind: np.ndarray
    size: np.ndarray
    shape: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """One image as it is to be kept."""

    stored: Any = b""
    kind: int = _NOT_KEPT
    size: tuple[int, int] = (0, 0)
    shape: tuple[int, int] = (0, 0)


def _make(
    own: Path, source: Source, form: Form, shrink: Shrink, threads: int, max_pixels: int
) -> None:
    for left in own.parent.glob(f"{own.name}.part-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(own, ignore_errors=True)  # damaged
    part = own.with_name(f"{own.name}.part-{os.getpid()}")
    part.mkdir()

    def make(index: int) -> _Made:
        return _made(source, index, form, shrink, max_pixels)

    try:
        with (part / _DATA).open("wb") as file, ThreadPoolExecutor(threads) as pool:
            starts = range(0, len(source), _AT_ONCE)
            blocks = told(starts, len(starts), len(source), f"keeping images for data.cache={form}")
            rows: list[_Made] = []
            for first in blocks:
                several = range(first, min(first + _AT_ONCE, len(source)))
                rows += [_written(file, image) for image in pool.map(make, several)]
            _flush(file)
        with (part / _INDEX).open("wb") as file:
            np.savez(file, **_as_arrays(rows))  # type: ignore[arg-type]
            _flush(file)
        part.rename(own)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _made(source: Source, index: int, form: Form, shrink: Shrink, max_pixels: int) -> _Made:
    try:
        stored = source[index]
        picture = open_picture(stored, source.where(index), max_pixels)
        pixels = picture.pixels()
        smaller = shrink(pixels)
    except ChangedDataError:
        raise
    except DataError:
        return _Made()
    size = (picture.height, picture.width)
    same = smaller.shape[:2] == pixels.shape[:2]
    if form == "resized" and same and isinstance(stored, bytes):
        return _Made(stored=stored, kind=_SAME, size=size)
    if form == "resized" and not same:
        encoded = simplejpeg.encode_jpeg(
            np.ascontiguousarray(smaller),
            quality=_QUALITY,
            colorspace="RGB",
            colorsubsampling="420",
        )
        return _Made(stored=encoded, kind=_SMALLER, size=size)
    kept = np.ascontiguousarray(smaller)
    return _Made(stored=kept, kind=_PIXELS, size=size, shape=kept.shape[:2])


def _written(file: BinaryIO, image: _Made) -> _Made:
    """Writes an image; what is left to remember of it is how many bytes it took."""
    data = image.stored if isinstance(image.stored, bytes) else image.stored.tobytes()
    file.write(data)
    return dataclasses.replace(image, stored=len(data))


def _as_arrays(rows: list[_Made]) -> dict[str, np.ndarray]:
    lengths = [0, *(row.stored for row in rows)]
    return {
        "start": np.cumsum(lengths, dtype=np.int64),
        "kind": np.array([row.kind for row in rows], np.uint8),
        "size": np.array([row.size for row in rows], np.int32).reshape(-1, 2),
        "shape": np.array([row.shape for row in rows], np.int32).reshape(-1, 2),
    }


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _decoded(data: bytes, where: str) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError as error:
        raise DataError(
            f"{where}: what was kept of it is damaged ({error}); delete the folder of kept "
            "images (data.cache_dir), and it is made anew."
        ) from error


def _read_index(folder: Path) -> _Index:
    with np.load(folder / _INDEX, allow_pickle=False) as arrays:
        return _Index(**arrays)


def _is_whole(folder: Path) -> bool:
    """Whether both files are there and as long as they should be."""
    try:
        stop = int(_read_index(folder).start[-1])
        return (folder / _DATA).stat().st_size == stop
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


def _mapped(path: Path) -> np.ndarray:
    if not path.stat().st_size:
        return np.zeros(0, np.uint8)
    # A plain array over the map: slicing a memmap takes as long as cropping.
    return np.asarray(np.memmap(path, np.uint8, "r"))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"{shown(str(folder))}: images cannot be kept there ({error.strerror or error}); set "
            "data.cache_dir to a folder with room that you may write to, or data.cache=off."
        ) from error


@contextlib.contextmanager
def _locked(own: Path) -> Generator[None, None, None]:
    """Holds the right to make a folder; the kernel gives it back when its owner ends."""
    with own.with_name(f"{own.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
