"""Sources of labelled images: one protocol, and the datasets that come with a library."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from jtl.errors import DataError
from jtl.tree import nearest

Arrays = dict[str, np.ndarray]


class Source(Protocol):
    """Labelled images with random access."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class, by label."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int32 `[examples]`."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the examples come from and under which licence, fit for JSON."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def gather(self, indices: np.ndarray) -> Arrays:
        """`image` uint8 `[n, height, width, 3]` and `label` int32 `[n]` of these examples."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest that changes when the examples do."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """Images in memory.

    Attributes:
        images: uint8 `[examples, height, width, 3]`.
        labels: int32 `[examples]`.
        classes: the name of each class, by label.
        provenance: where the examples come from and under which licence, fit for JSON.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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

    def gather(self, indices: np.ndarray) -> Arrays:
        """`image` uint8 `[n, height, width, 3]` and `label` int32 `[n]` of these examples."""
        return {"image": self.images[indices], "label": self.labels[indices]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over images, labels and class names."""
        total = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        total.update(np.ascontiguousarray(self.images).data)
        total.update(np.ascontiguousarray(self.labels).data)
        return total.hexdigest()


def fitted(source: Source, fit: Callable[[np.ndarray], np.ndarray]) -> Source:
    """The same examples with every image brought to the network's size.

    Args:
        source: any source; one in memory is fitted once, any other as it is read.
        fit: uint8 `[height, width, 3]` to the network's size, such as a preprocessing's
            `resize_and_crop`, so that training, evaluation and prediction see the same.
    """
    if isinstance(source, ArraySource):
        images = np.stack([fit(image) for image in source.images]) if len(source) else source.images
        return dataclasses.replace(source, images=images)
    return _Fitted(source=source, fit=fit)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    source: Source
    fit: Callable[[np.ndarray], np.ndarray]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.source.provenance

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def gather(self, indices: np.ndarray) -> Arrays:
        batch = self.source.gather(indices)
        return {**batch, "image": np.stack([self.fit(image) for image in batch["image"]])}


def digits() -> ArraySource:
    """The 1,797 handwritten digits that scikit-learn ships, 8×8 grey.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998; its test part.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    grey = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    return ArraySource(
        images=images,
        labels=raw.target.astype(np.int32),
        classes=tuple(str(name) for name in raw.target_names),
        provenance={
            "dataset": "Optical Recognition of Handwritten Digits (test part), by scikit-learn",
            "licence": "CC BY 4.0",  # archive.ics.uci.edu/dataset/80
        },
    )


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


BUNDLED = {"digits": digits}


def unknown_source(name: str, known: Sequence[str]) -> DataError:
    """The error for a source that does not exist, with near names."""
    near = nearest(name, known)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return DataError(f"data.source: there is no {name!r}; known are {', '.join(known)}.{hint}")


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 `[height, width, 3]`, or with a fourth channel of alpha.

    Levels of 16 bits become 8; a photograph is turned upright as its EXIF data says.

    Raises:
        DataError: there is no such file, it is no image that can be read, or its levels have
            no known range.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                # Pillow would cut all levels above 255 off.
                levels = np.asarray(upright).astype(np.float32) / 257
                upright = Image.fromarray(np.rint(levels).astype(np.uint8))
            if upright.mode in ("I", "F"):
                raise DataError(
                    f"{path} has 32-bit levels (mode {upright.mode}), whose range is not known; "
                    "save it with 8 or 16 bits a channel."
                )
            mode = "RGBA" if upright.has_transparency_data else "RGB"
            return np.asarray(upright.convert(mode))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such image.") from error
    except DataError:
        raise
    except Exception as error:  # decoders raise errors of many kinds over damaged files
        raise DataError(f"{path} is no image that can be read: {error}.") from error
