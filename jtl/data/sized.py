"""Images in memory at the network's size, each brought there when it is first read."""

from collections.abc import Callable
from typing import Any

import numpy as np


class SizedImages:
    """What `fit` makes of images, kept from the first reading on; safe to share between threads.

    Args:
        images: uint8 `[examples, height, width, 3]`.
        size: side of the square that the network takes, pixels.
        fit: one image to uint8 `[size, size, 3]`.
    """

    def __init__(
        self, images: np.ndarray, size: int, fit: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._images, self._size, self._fit = images, size, fit
        self._forget()

    def with_these(self, indices: np.ndarray) -> np.ndarray:
        """Uint8 `[examples, size, size, 3]`, of which what was read so far and these hold."""
        for index in np.unique(indices[~self._known[indices]]):
            # Two threads may both do so, with the same pixels; known is only what is written.
            self._sized[index] = self._fit(self._images[index])
            self._known[index] = True
        return self._sized

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the images as they are, and sizes what it reads itself."""
        kept = ("_images", "_size", "_fit")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    def _forget(self) -> None:
        count = len(self._images)
        self._sized = np.empty((count, self._size, self._size, 3), np.uint8)
        self._known = np.zeros(count, bool)
