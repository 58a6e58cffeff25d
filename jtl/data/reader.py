"""Examples as arrays of one size: reads, decodes, crops, and leaves out what is damaged."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from jtl.data.crop import CropOptions, crop_into, draw_box
from jtl.data.decode import MAX_PIXELS, Picture, open_picture
from jtl.data.kept import KeptImages
from jtl.data.sized import SizedImages
from jtl.data.sources.arrays import ArraySource
from jtl.data.sources.protocol import Arrays, Source
from jtl.errors import ChangedDataError, DataError

# Images in memory are sized once where that takes no more than this, bytes.
_SIZED_ONCE = 256 * 2**20
_ALIGNMENT = 64  # bytes; from elsewhere, XLA on a CPU has a thread of its own copy an array, later
_CHUNKS = 4  # of a batch for each thread, so that none waits long for the others


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """How examples of a source become arrays.

    Attributes:
        source: the examples.
        size: side of the square that the network takes, pixels.
        fit: uint8 `[height, width, 3 or 4]` to the network's size, such as a preprocessing's
            `resize_and_crop`, so that training, evaluation and prediction see the same.
        crop: where training images are cropped at random instead; None fits them too.
        background: the RGB colour under transparent pixels of a crop.
        seed: of the crops.
        threads: that decode; results do not depend on them.
        skip: whether an image that cannot be read is left out by its mask, or stops the run.
        max_pixels: of an image; more are refused before they are decoded.
        kept: the source's images at a smaller size, which are then read in their place.
        sized: the source's images as they are fitted, if they are kept in memory.
    """

    source: Source
    size: int
    fit: Callable[[np.ndarray], np.ndarray]
    crop: CropOptions | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    seed: int = 0
    threads: int = 1
    skip: bool = False
    max_pixels: int = MAX_PIXELS
    kept: KeptImages | None = None
    sized: SizedImages | None = None

    def gather(self, indices: np.ndarray, views: np.ndarray | None = None) -> Arrays:
        """These examples.

        Args:
            indices: int `[n]`.
            views: int `[n]`, which view of each is wanted, for training; None for evaluation,
                where no image is cropped at random.

        Returns:
            `image` uint8 `[n, size, size, 3]`, `label` as the source has it, and `mask` bool
            `[n]`, False where an image could not be read and is left out.

        Raises:
            DataError: an image cannot be read, and none may be left out; or a file is not what it
            was.
        """
        label, mask = self.source.labels[indices], np.ones(len(indices), bool)
        image = _room(len(indices), self.size)
        fitted = self._fitted(indices) if self.crop is None or views is None else None
        if fitted is not None:
            if fitted.flags.c_contiguous:
                # With "raise" it would be copied twice; that a place exists, the labels have said.
                np.take(fitted, indices, axis=0, out=image, mode="wrap")
            else:  # of a view, such as one with its channels turned around, `take` copies all
                image[:] = fitted[indices]
            return {"image": image, "label": label, "mask": mask}

        def read(places: range) -> None:
            for place in places:
                view = None if views is None else int(views[place])
                try:
                    self._read_into(image[place], int(indices[place]), view)
                except DataError as error:
                    if not self.skip or isinstance(error, ChangedDataError):
                        raise
                    mask[place], image[place] = False, 0

        everything = range(len(indices))
        if self.threads == 1:
            read(everything)
        else:
            step = max(1, len(indices) // (self.threads * _CHUNKS))
            chunks = [everything[start : start + step] for start in everything[::step]]
            list(_pool(self.threads).map(read, chunks))
        return {"image": image, "label": label, "mask": mask}

    @property
    def in_memory(self) -> bool:
        """Whether training images are copied from memory, neither decoded nor cropped.

        Such as are sized once are so from their second reading on.
        """
        return self.crop is None and (self.sized is not None or self._whole is not None)

    @property
    def _whole(self) -> np.ndarray | None:
        """All images of a source that has them in memory at the network's size."""
        source, size = self.source, (self.size, self.size)
        if isinstance(source, ArraySource) and source.images.shape[1:3] == size:
            return source.images
        return None

    def _fitted(self, indices: np.ndarray) -> np.ndarray | None:
        """All images in memory, of which these are at the network's size; None without."""
        whole = self._whole
        if whole is not None or self.sized is None:
            return whole
        return self.sized.with_these(indices)

    def _read_into(self, out: np.ndarray, index: int, view: int | None) -> None:
        picture = self._picture(index)
        if self.crop is None or view is None:
            out[:] = self.fit(picture.pixels())
            return
        size = (picture.height, picture.width)
        box = draw_box(self.crop, self.seed, view, index, size)
        crop_into(out, picture, box, self.background)

    def _picture(self, index: int) -> Picture:
        if self.kept is not None:
            return self.kept.picture(index)
        return open_picture(self.source[index], self.source.where(index), self.max_pixels)


def sized_once(reader: Reader) -> Reader:
    """The same reader, which brings each small image in memory to the network's size once."""
    source, size = reader.source, reader.size
    if not isinstance(source, ArraySource) or reader.crop is not None:
        return reader
    if len(source) * size * size * 3 > _SIZED_ONCE:
        return reader
    return dataclasses.replace(reader, sized=SizedImages(source.images, size, reader.fit))


def _room(count: int, size: int) -> np.ndarray:
    """Uint8 `[count, size, size, 3]`, not filled, from where a CPU takes it without a thread."""
    length = count * size * size * 3
    room = np.empty(length + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + length].reshape(count, size, size, 3)


@lru_cache(maxsize=8)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="jtl-read")
