"""Images in memory as a source."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """Images in memory.

    Attributes:
        images: uint8 `[examples, height, width, 3]`.
        labels: int32 `[examples]`.
        classes: the name of each class, by label.
        provenance: where the examples come from and under which licence, fit for JSON.
        splits: the examples of each split that has a name already, int `[n]`.
        groups: int `[examples]`, equal for examples that belong in one split.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuses arrays that do not fit together."""
        problems = []
        if self.images.ndim != 4 or self.images.shape[-1] != 3 or self.images.dtype != np.uint8:
            problems.append(
                f"images are {self.images.dtype}{list(self.images.shape)}, but must be uint8 "
                "[examples, height, width, 3]"
            )
        if self.labels.shape != self.images.shape[:1]:
            problems.append(f"{len(self.images)} images have {self.labels.shape} labels")
        elif self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < len(
            self.classes
        ):
            problems.append(
                f"labels run from {self.labels.min()} to {self.labels.max()}, but there are "
                f"{len(self.classes)} classes, so they must be 0 to {len(self.classes) - 1}"
            )
        if problems:
            raise DataError("; ".join(problems) + ".")

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, uint8 `[height, width, 3]`."""
        return self.images[index]

    def name(self, index: int) -> str:
        """What this example is called in files."""
        return str(index)

    def where(self, index: int) -> str:
        """What a message calls this example."""
        return f"example {index}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over images, labels and class names."""
        total = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        total.update(np.ascontiguousarray(self.images).data)
        total.update(np.ascontiguousarray(self.labels).data)
        return total.hexdigest()


def from_arrays(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str] | None = None
) -> ArraySource:
    """A source of one's own arrays.

    Args:
        images: uint8 `[examples, height, width, 3]`, or without the last axis if grey.
        labels: int `[examples]`.
        classes: the name of each class; the numbers by default.

    Raises:
        DataError: the arrays do not fit together.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels are {labels.dtype}, but must be class numbers of an integer type; "
            "numpy.unique(labels, return_inverse=True) gives names and numbers."
        )
    labels = labels.astype(np.int32)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    names = classes or [str(n) for n in range(int(labels.max(initial=0)) + 1)]
    return ArraySource(images=images, labels=labels, classes=tuple(names))
