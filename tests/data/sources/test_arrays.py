"""Arrays as a source, and the bundled digits."""

import json

import numpy as np
import pytest

from jtl.data.sources.arrays import ArraySource, from_arrays
from jtl.data.sources.bundled import digits
from jtl.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
NAMES = ("ant", "bee", "cat")


def source(**changes):
    fields = {"images": IMAGES, "labels": LABELS, "classes": NAMES}
    return ArraySource(**{**fields, **changes})


def test_each_example_is_its_image_with_a_name_of_its_own():
    own = source()
    np.testing.assert_array_equal(np.stack([own[index] for index in range(len(own))]), IMAGES)
    assert len({own.name(index) for index in range(6)}) == 6
    assert own.where(4) == "example 4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": IMAGES.astype(np.float32)}, r"images are float32\[6, 8, 8, 3\], but must be"),
        ({"images": IMAGES[..., 0]}, r"images are uint8\[6, 8, 8\]"),
        ({"images": IMAGES[:4]}, r"4 images have \(6,\) labels"),
        ({"labels": LABELS + 1}, "labels run from 1 to 3, but there are 3 classes"),
        ({"labels": LABELS - 1}, "labels run from -1 to 1"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(changes, said):
    with pytest.raises(DataError, match=said):
        source(**changes)


def test_all_misfits_are_named_at_once():
    with pytest.raises(DataError, match=r"images are float64.*; labels run from 9 to 9"):
        source(images=IMAGES / 255, labels=np.full(6, 9))


def test_fingerprint_changes_with_every_part_of_the_data():
    changed = IMAGES.copy()
    changed[3, 4, 5, 1] ^= 1
    others = [
        source(images=changed),
        source(labels=LABELS[::-1].copy()),
        source(classes=("ant", "bee", "cow")),
        source(images=IMAGES.reshape(6, 4, 16, 3)),
    ]
    assert source().fingerprint == source(images=IMAGES.copy()).fingerprint
    assert len({source().fingerprint, *(other.fingerprint for other in others)}) == 5
    assert source(provenance={"seen": "yes"}).fingerprint == source().fingerprint


def test_digits_are_all_there_in_full_contrast():
    data = digits()
    assert data.images.shape == (1797, 8, 8, 3)
    assert data.images.max() == 255
    assert np.bincount(data.labels).min() == 174
    assert data.classes == tuple("0123456789")
    assert json.loads(json.dumps(data.provenance))["licence"] == "CC BY 4.0"


def test_own_arrays_become_a_source():
    own = from_arrays(IMAGES, LABELS.astype(np.int64))
    assert own.images.shape == (6, 8, 8, 3)
    assert own.labels.dtype == np.int32
    assert own.classes == ("0", "1", "2")
    assert from_arrays(IMAGES, LABELS, NAMES).classes == NAMES


def test_own_grey_arrays_get_three_equal_channels():
    own = from_arrays(IMAGES[..., 0], LABELS)
    for channel in range(3):
        np.testing.assert_array_equal(own.images[..., channel], IMAGES[..., 0])


@pytest.mark.parametrize("labels", [LABELS + 0.5, np.array(["ant", "bee", "cat"] * 2)])
def test_labels_that_are_no_class_numbers_are_refused(labels):
    with pytest.raises(DataError, match="must be class numbers of an integer type"):
        from_arrays(IMAGES, labels)
