"""Sources of images: arrays and the bundled dataset, and every kind of image file."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jtl.data.sources import ArraySource, digits, fitted, from_arrays, read_image
from jtl.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
NAMES = ("ant", "bee", "cat")


def source(**changes):
    fields = {"images": IMAGES, "labels": LABELS, "classes": NAMES}
    return ArraySource(**{**fields, **changes})


def test_gathering_gives_the_examples_asked_for_in_their_order():
    batch = source().gather(np.array([5, 0, 5]))
    np.testing.assert_array_equal(batch["image"], IMAGES[[5, 0, 5]])
    np.testing.assert_array_equal(batch["label"], [2, 0, 2])
    assert len(source()) == 6


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


def halve(image):
    return image[::2, ::2]


class Elsewhere:
    """A source that is not an array in memory."""

    classes, labels, provenance, fingerprint = NAMES, LABELS, {}, "f"

    def __len__(self):
        return 6

    def gather(self, indices):
        return {"image": IMAGES[indices], "label": LABELS[indices]}


@pytest.mark.parametrize("original", [source(), Elsewhere()])
def test_fitted_sources_give_the_same_examples_at_the_networks_size(original):
    small = fitted(original, halve)
    batch = small.gather(np.array([4, 1]))
    np.testing.assert_array_equal(batch["image"], IMAGES[[4, 1], ::2, ::2])
    np.testing.assert_array_equal(batch["label"], LABELS[[4, 1]])
    assert (small.classes, len(small)) == (NAMES, 6)


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


GREY = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = RNG.integers(0, 256, (16, 12, 3), dtype=np.uint8)


def write(folder, image, name="image.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


def test_grey_files_get_three_equal_channels(tmp_path):
    pixels = read_image(write(tmp_path, Image.fromarray(GREY)))
    np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, -1))


def test_files_of_16_bits_keep_their_range(tmp_path):
    deep = GREY.astype(np.uint16) * 257
    for name in ("image.png", "image.tiff"):
        pixels = read_image(write(tmp_path, Image.fromarray(deep), name))
        np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_files_of_32_bits_are_refused(tmp_path, dtype):
    path = write(tmp_path, Image.fromarray(GREY.astype(dtype)), "image.tiff")
    with pytest.raises(DataError, match="whose range is not known; save it with 8 or 16 bits"):
        read_image(path)


def test_palette_files_show_their_colours(tmp_path):
    indexed = Image.fromarray(COLOUR).quantize(256, dither=Image.Dither.NONE)
    pixels = read_image(write(tmp_path, indexed))
    np.testing.assert_array_equal(pixels, np.asarray(indexed.convert("RGB")))


def test_transparent_files_keep_their_alpha(tmp_path):
    clear = np.dstack([COLOUR, np.tile(np.uint8([0, 128, 255]), (16, 4))])
    pixels = read_image(write(tmp_path, Image.fromarray(clear)))
    np.testing.assert_array_equal(pixels, clear)


def test_transparent_palette_files_keep_their_alpha(tmp_path):
    indexed = Image.fromarray(GREY).convert("P")
    pixels = read_image(write(tmp_path, indexed, transparency=5))
    assert pixels.shape == (16, 16, 4)
    assert (pixels[..., 3] == 0).sum() == 1


def test_bilevel_files_are_black_and_white(tmp_path):
    pixels = read_image(write(tmp_path, Image.fromarray(GREY > 99)))
    assert set(np.unique(pixels)) == {0, 255}


def test_photographs_are_turned_upright(tmp_path):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: the camera was turned right
    pixels = read_image(write(tmp_path, image, exif=exif))
    np.testing.assert_array_equal(pixels, np.rot90(COLOUR, -1))


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.png: there is no such image"):
        read_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("damage", ["text", "folder", "cut", "exif"])
def test_a_file_that_cannot_be_read_is_one_error(tmp_path, damage):
    path = tmp_path / "image.webp"
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("not an image")
    else:
        image = Image.fromarray(COLOUR)
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
        whole = path.read_bytes()
        # Pillow raises a SyntaxError over EXIF data with another header.
        spoilt = {"cut": whole[: len(whole) // 2], "exif": whole.replace(b"MM\0*", b"M\xff\0*")}
        assert spoilt["exif"] != whole
        path.write_bytes(spoilt[damage])
    with pytest.raises(DataError, match="is no image that can be read"):
        read_image(path)


def test_provenance_is_a_field_of_its_own():
    changed = dataclasses.replace(source(), provenance={"dataset": "own"})
    assert changed.provenance == {"dataset": "own"}
