"""Which features of a TFDS dataset are image and label, and both out of a record."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl.data.sources.names import shown
from jtl.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """Where a record keeps its image and its label.

    Attributes:
        image: the feature's name.
        label: likewise.
        classes: the name of each class.
        several: whether an image has any number of labels.
        shape: `(height, width, channels)` of images that are stored as plain numbers; None of
            those that are stored as image files.
    """

    image: str
    label: str
    classes: tuple[str, ...]
    several: bool
    shape: tuple[int, int, int] | None = None


def choose_features(title: str, features: Mapping[str, Any], supervised: Any) -> Features:
    """The image and the label of a dataset: what it says is to be learnt, or its only ones.

    Args:
        title: what messages call the dataset.
        features: of TFDS, by name.
        supervised: the dataset's `supervised_keys`: a pair of names, or whatever else or None.

    Raises:
        DataError: there is no single image or no single label with named classes.
    """
    features = dict(features.items())  # TFDS's own mapping has no `get`
    pair = supervised if _is_pair(supervised) else (None, None)
    asked = [name for name in pair if name]
    images = [name for name, own in features.items() if _is_image(own)]
    labels = [name for name, own in features.items() if _class_label(own) is not None]
    if asked:
        images = [name for name in asked[:1] if name in images or _shape(features.get(name))]
        labels = [name for name in asked[1:] if name in labels]
    if len(images) != 1 or len(labels) != 1:
        listed = "; ".join(f"{name}: {_described(own)}" for name, own in features.items())
        told = f", and says that {asked[0]} tells {asked[1]}" if asked else ""
        raise DataError(
            f"{title} has no single image with a single label (ClassLabel, or a sequence of them)"
            f"{told}; its features are {listed}. Choose another dataset, or load one image and "
            "one label of each example with a class that has __len__ and __getitem__."
        )
    label = features[labels[0]]
    named = _class_label(label)
    assert named is not None
    return Features(
        image=images[0],
        label=labels[0],
        classes=tuple(shown(named.int2str(number)) for number in range(named.num_classes)),
        several=named is not label,
        shape=_shape(features[images[0]]),
    )


def image_of(record: bytes, features: Features) -> bytes | np.ndarray:
    """The bytes of the image's file, or uint8 `[height, width, 3 or 4]` of one without.

    Args:
        record: a serialised `tf.train.Example`.
        features: where its image is.

    Raises:
        ValueError: the record is damaged, or has no image.
    """
    stored = _feature(record, features.image)
    if features.shape is None:
        return _only(stored.bytes_list.value)
    packed = stored.bytes_list.value
    levels = np.frombuffer(_only(packed), np.uint8) if packed else stored.int64_list.value
    pixels = np.array(levels, np.uint8).reshape(features.shape)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def labels_of(record: bytes, features: Features) -> list[int]:
    """The class numbers of a record.

    Args:
        record: a serialised `tf.train.Example`.
        features: where its label is.

    Raises:
        ValueError: the record is damaged, or has no label where it must have one.
    """
    stored = _feature(record, features.label, needed=not features.several)
    numbers = list(stored.int64_list.value)
    return numbers if features.several else [_only(numbers)]


def _feature(record: bytes, name: str, needed: bool = True) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        stored = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise ValueError(f"the record is damaged ({error})") from error
    if needed and name not in stored:
        raise ValueError(f"the record has no feature {name!r}")
    return stored[name]


def _only(values: Any) -> Any:
    if len(values) != 1:
        raise ValueError(f"there are {len(values)} values where one should be")
    return values[0]


def _is_pair(keys: Any) -> bool:
    return isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys)


def _is_image(feature: Any) -> bool:
    from tensorflow_datasets import features as tfds

    # Other types of number are stored as files whose levels mean something else.
    return type(feature) is tfds.Image and feature.np_dtype in (np.uint8, np.uint16)


def _shape(feature: Any) -> tuple[int, int, int] | None:
    from tensorflow_datasets import features as tfds

    if type(feature) is not tfds.Tensor or feature.np_dtype != np.uint8:
        return None
    shape = feature.shape
    fits = len(shape) == 3 and None not in shape and shape[-1] in (1, 3, 4)
    return tuple(shape) if fits and feature.to_json_content().encoding != "zlib" else None


def _class_label(feature: Any) -> Any | None:
    from tensorflow_datasets import features as tfds

    inner = feature.feature if type(feature) is tfds.Sequence else feature
    named = type(inner) is tfds.ClassLabel and inner.num_classes
    return inner if named else None


def _described(feature: Any) -> str:
    return " ".join(str(feature).split())
