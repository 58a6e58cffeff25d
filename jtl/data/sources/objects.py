"""Any object of labelled images as a source, and arrays in `.npz` files."""

import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jtl.data.decode import upright_pixels
from jtl.data.sources.arrays import ArraySource
from jtl.data.sources.labels import numbered
from jtl.data.sources.listing import read_regular
from jtl.data.sources.names import shown
from jtl.data.sources.protocol import Image as Stored
from jtl.errors import DataError

_IMAGES, _LABELS = ("images", "image", "x"), ("labels", "label", "y")
_SAMPLE = 64  # images that the fingerprint looks at


class Examples(Protocol):
    """What `from_object` takes: anything with a length whose items are examples by number."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One example, as `(image, label)` or `{"image": ..., "label": ...}`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ObjectSource:
    """Images that an object gives by number.

    Attributes:
        examples: the object.
        labels: int32 `[examples]`, or float32 `[examples, classes]` where images have several.
        classes: the name of each class, by label.
        splits: none; the object is one whole.
        groups: int `[examples]`, equal for examples that belong in one split; None without.
        provenance: where the examples come from, fit for JSON.
    """

    examples: Examples
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    groups: np.ndarray | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Stored:
        """One image: encoded bytes, or uint8 `[height, width, 3]`, or 4 channels with alpha.

        Raises:
            DataError: the object raises an error, or gives no image.
        """
        where = self.where(index)
        image, _ = _parted(_example(self.examples, index, where), where)
        return _as_image(image, where)

    def name(self, index: int) -> str:
        """The example's number."""
        return str(index)

    def where(self, index: int) -> str:
        """What a message calls this example."""
        return f"example {index} of the {type(self.examples).__name__}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the classes, all labels, and 64 images spread evenly.

        It changes from one use to the next if the object gives other pixels each time.

        Raises:
            DataError: one of these images cannot be had.
        """
        total = hashlib.sha256(repr((self.classes, self.labels.shape)).encode())
        total.update(np.ascontiguousarray(self.labels).data)
        for index in np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(int)).tolist():
            image = self[index]
            if isinstance(image, np.ndarray):
                total.update(repr(image.shape).encode())
                image = np.ascontiguousarray(image).tobytes()
            total.update(image)
        return total.hexdigest()


def from_object(
    examples: Examples, *, labels: Any | None = None, classes: Sequence[str] | None = None
) -> ObjectSource:
    """A source of any object with a length and items, such as a torchvision dataset.

    Its items are `(image, label)` or `{"image": ..., "label": ...}`. An image is a uint8 array
    `[height, width]` or with 1, 3 or 4 channels last, a Pillow image, or the bytes of a file.

    Args:
        examples: the object; items are asked for again in every epoch, from several threads.
        labels: class numbers `[examples]`, names `[examples]`, or 0 and 1 `[examples, classes]`;
            by default the object's `labels` or `targets`, and where it has neither, every item is
            read once for its label.
        classes: the name of each class; by default the object's `classes`, or the names that
            stand in the labels, or numbers.

    Raises:
        DataError: there are no examples, or labels and classes do not fit them.
    """
    count = len(examples)
    kind = type(examples).__name__
    if count == 0:
        raise DataError(f"the {kind} holds no examples.")
    raw = labels
    for attribute in ("labels", "targets"):
        raw = getattr(examples, attribute, None) if raw is None else raw
    if raw is None:
        raw = [_label_of(examples, index) for index in range(count)]
    names = getattr(examples, "classes", None) if classes is None else classes
    numbers, known = numbered(raw, None if names is None else list(names), f"the {kind}")
    if len(numbers) != count:
        raise DataError(f"the {kind} holds {count} examples, but {len(numbers)} labels were given.")
    return ObjectSource(
        examples=examples,
        labels=numbers,
        classes=known,
        provenance={"object": f"{type(examples).__module__}.{type(examples).__qualname__}"},
    )


def load_npz(path: Path) -> ArraySource:
    """The images in a `.npz` file.

    It holds `images` (or `image`, `x`), uint8 `[examples, height, width]` or with 1 or 3 channels
    last, and `labels` (`label`, `y`), class numbers or names; or both for each split, with
    `_train`, `_val` and `_test` after their names, such as `x_train`. `classes` may name the
    classes. Nothing in the file can run code.

    Args:
        path: the file.

    Raises:
        DataError: there is no such file, it is damaged, or its arrays are not those; it says
            which arrays the file has.
    """
    path = Path(path)
    where = shown(str(path))
    arrays = _arrays_of(path, where)
    parts = _split_parts(arrays, where)
    classes = [str(name) for name in arrays["classes"].ravel()] if "classes" in arrays else None
    numbers, known = numbered(np.concatenate([own for _, own in parts.values()]), classes, where)
    edges = np.cumsum([0, *(len(own) for _, own in parts.values())]).tolist()
    return ArraySource(
        images=np.concatenate([images for images, _ in parts.values()]),
        labels=numbers,
        classes=known,
        splits={name: np.arange(*edge) for name, edge in zip(parts, pairwise(edges)) if name},
        provenance={"file": shown(path.name)},
    )


def _example(examples: Examples, index: int, where: str) -> Any:
    try:
        return examples[index]
    except Exception as error:
        raise DataError(
            f"{where} cannot be had: {type(error).__name__}: {shown(str(error))}."
        ) from error


def _label_of(examples: Examples, index: int) -> Any:
    where = f"example {index} of the {type(examples).__name__}"
    return _parted(_example(examples, index, where), where)[1]


def _parted(example: Any, where: str) -> tuple[Any, Any]:
    """An example's image and label."""
    if isinstance(example, Mapping):
        if "image" not in example:
            raise DataError(
                f"{where} has the keys {', '.join(map(str, example))}; it must have image and "
                "label."
            )
        return example["image"], example.get("label")
    if isinstance(example, tuple | list) and len(example) == 2:
        return example[0], example[1]
    raise DataError(
        f"{where} is of type {type(example).__name__}; it must be (image, label) or "
        '{"image": ..., "label": ...}.'
    )


def _as_image(image: Any, where: str) -> Stored:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Image.Image):
        return upright_pixels(image, where)
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] in (1, 3, 4) and array.size:
        return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array
    raise _misfit(np.shape(image), array.dtype, f"the image of {where} is")


def _misfit(shape: tuple[int, ...], dtype: np.dtype, what: str) -> DataError:
    hint = "give uint8 [height, width] or with 1, 3 or 4 channels last"
    if dtype.kind == "f":
        hint = (
            "give uint8 in 0..255 before any normalisation, which belongs to the weights: leave "
            "out transforms such as ToTensor, or take np.rint(image * 255).astype(np.uint8) if it "
            "is in [0, 1]"
        )
    elif len(shape) == 3 and shape[0] in (1, 3, 4):
        hint = "put the channels last: np.moveaxis(image, 0, -1)"
    return DataError(f"{what} {dtype}{list(shape)}; {hint}.")


def _arrays_of(path: Path, where: str) -> dict[str, np.ndarray]:
    """Every array of the file that is no pickled object."""
    try:
        with np.load(io.BytesIO(read_regular(path)), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{where}: there is no such file.") from error
    # Over damaged files NumPy and zipfile raise errors of many kinds; a .npy file is no archive.
    except Exception as error:
        raise DataError(
            f"{where} is no .npz file of plain arrays: {shown(str(error))}; write it with "
            "np.savez(path, images=..., labels=...), and names as an array of text."
        ) from error


def _split_parts(
    arrays: Mapping[str, np.ndarray], where: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each split, or of the whole under an empty name."""
    held = ", ".join(f"{shown(n)} {a.dtype}{list(a.shape)}" for n, a in arrays.items()) or "nothing"
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("", "train", "val", "test"):
        end = f"_{split}" if split else ""
        images = [arrays[name + end] for name in _IMAGES if name + end in arrays]
        labels = [arrays[name + end] for name in _LABELS if name + end in arrays]
        if len(images) > 1 or len(labels) > 1 or len(images) != len(labels):
            raise DataError(
                f"{where} must have one array of images ({', '.join(n + end for n in _IMAGES)}) "
                f"and one of labels ({', '.join(n + end for n in _LABELS)}); it holds {held}."
            )
        if images:
            parts[split] = _checked(images[0], where), _as_rows(labels[0])
    if not parts or ("" in parts and len(parts) > 1):
        raise DataError(
            f"{where} must have images and labels, or those of splits, such as x_train and "
            f"y_train; it holds {held}."
        )
    problems = [
        f"{len(images)} images but {len(labels)} labels{f' of {split}' if split else ''}"
        for split, (images, labels) in parts.items()
        if len(images) != len(labels) or not len(images)
    ]
    if len({(images.shape[1:], labels.shape[1:]) for images, labels in parts.values()}) > 1:
        problems.append("its splits differ in the size of their images, or of their labels")
    if problems:
        raise DataError(f"{where} does not fit together: {'; '.join(problems)}; it holds {held}.")
    return parts


def _as_rows(labels: np.ndarray) -> np.ndarray:
    return labels if labels.ndim > 1 else labels.reshape(-1, 1)


def _checked(images: np.ndarray, where: str) -> np.ndarray:
    """All images of an array, uint8 with three channels."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise _misfit(images.shape[1:], images.dtype, f"each image of {where} is")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
