"""Any object as a source, and `.npz` files: every kind of example, and what is refused."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from jtl.data.decode import open_picture
from jtl.data.sources.objects import from_object, load_npz
from jtl.errors import DataError

from .files import image_bytes

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
CLEAR = np.dstack([COLOUR, GREY])


class Dataset:
    """Examples that count how often they are read."""

    def __init__(self, examples, **attributes):
        self.examples, self.reads = examples, 0
        vars(self).update(attributes)

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.reads += 1
        return self.examples[index]


def pixels(source, index=0):
    return open_picture(source[index], source.where(index)).pixels()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (COLOUR, COLOUR),
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., None], np.dstack([GREY] * 3)),
        (CLEAR, CLEAR),
        (Image.fromarray(COLOUR), COLOUR),
        (Image.fromarray(CLEAR), CLEAR),
        (Image.fromarray(GREY), np.dstack([GREY] * 3)),
        (image_bytes(7), np.full((6, 5, 3), 7)),
        (memoryview(image_bytes(7)), np.full((6, 5, 3), 7)),
        (COLOUR.tolist, None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("form", ["pair", "mapping"])
def test_every_kind_of_image_is_taken(image, expected, form):
    example = (image, 1) if form == "pair" else {"image": image, "label": 1}
    source = from_object([example])
    if expected is None:
        with pytest.raises(DataError, match="the image of example 0 of the list is object"):
            source[0]
        return
    np.testing.assert_array_equal(pixels(source), expected)
    np.testing.assert_array_equal(source.labels, [1])


def test_a_photograph_that_pillow_opened_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "PNG", exif=exif)
    source = from_object([(Image.open(file), 0)])
    np.testing.assert_array_equal(pixels(source), np.rot90(COLOUR, -1))


def test_labels_are_read_once_where_the_object_does_not_list_them():
    examples = Dataset([(COLOUR, n % 3) for n in range(7)])
    source = from_object(examples)
    assert examples.reads == 7
    np.testing.assert_array_equal(source.labels, [0, 1, 2, 0, 1, 2, 0])
    assert (source.labels.dtype, source.classes) == (np.int32, ("0", "1", "2"))
    assert (len(source), dict(source.splits), source.groups) == (7, {}, None)


@pytest.mark.parametrize("attribute", ["labels", "targets"])
def test_labels_and_classes_that_the_object_lists_are_taken_without_reading(attribute):
    attributes = {attribute: [1, 0], "classes": ["cat", "dog"]}
    examples = Dataset([(COLOUR, None)] * 2, **attributes)
    source = from_object(examples)
    assert examples.reads == 0
    np.testing.assert_array_equal(source.labels, [1, 0])
    assert source.classes == ("cat", "dog")
    given = from_object(examples, labels=np.array([[0], [2]], np.int64), classes="xyz")
    np.testing.assert_array_equal(given.labels, [0, 2])
    assert given.classes == ("x", "y", "z")


def test_names_become_numbers_in_their_natural_order_or_that_of_the_classes():
    examples = [(COLOUR, name) for name in ("n10", "n9", "n10")]
    source = from_object(examples)
    assert source.classes == ("n9", "n10")
    np.testing.assert_array_equal(source.labels, [1, 0, 1])
    ordered = from_object(examples, classes=["n10", "n9"])
    np.testing.assert_array_equal(ordered.labels, [0, 1, 0])


def test_rows_of_0_and_1_are_several_labels():
    rows = [[1, 0, 1], [0, 0, 0]]
    source = from_object([(COLOUR, None)] * 2, labels=rows)
    np.testing.assert_array_equal(source.labels, np.float32(rows))
    assert (source.labels.dtype, source.classes) == (np.float32, ("0", "1", "2"))


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ([0.5, 1.0], None, r"are float64\[2\]; give class numbers of an integer type or names"),
        ([True, False], None, r"are bool\[2\]"),
        ([None, 1], None, r"are object\[2\]"),
        ([[1, 2], [0, 1]], None, r"are int64\[2, 2\]"),
        ([0, -1], None, "run from -1 to 0, but there are 1 classes"),
        ([0, 3], "abc", "run from 0 to 3, but there are 3 classes, so they must be 0 to 2"),
        ([[1, 0, 0], [0, 0, 1]], "ab", "run from 0 to 2, but there are 2 classes"),
        (["a", "z"], "abc", "name classes that it does not have: z; it has a, b, c"),
        ([0, 10**12], None, "run up to 1000000000000, which are hardly numbers of classes"),
        ([0, 1, 0], None, "holds 2 examples, but 3 labels were given"),
        ([[0], [0, 1]], None, "are no array"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, classes, said):
    with pytest.raises(DataError, match=said):
        from_object([(COLOUR, 0)] * 2, labels=labels, classes=classes)


class Broken:
    """Examples that cannot be had."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise RuntimeError("the disk\nis away")


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([], "the list holds no examples"),
        ([7], r"is of type int; it must be \(image, label\)"),
        ([(COLOUR, 0, 1)], "is of type tuple; it must be"),
        ([{"img": COLOUR, "label": 0}], "has the keys img, label; it must have image and label"),
        (Broken(), r"example 0 of the Broken cannot be had: RuntimeError: the disk\\nis away"),
    ],
)
def test_what_holds_no_examples_is_refused(examples, said):
    with pytest.raises(DataError, match=said):
        from_object(examples)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (COLOUR / 255, r"is float64\[6, 5, 3\]; give uint8 in 0\.\.255 before any normalisation"),
        (np.moveaxis(COLOUR, -1, 0), r"is uint8\[3, 6, 5\]; put the channels last"),
        (COLOUR.astype(np.int32), r"is int32\[6, 5, 3\]; give uint8"),
        (COLOUR[..., :2], r"is uint8\[6, 5, 2\]"),
        (COLOUR[:0], r"is uint8\[0, 5, 3\]"),
        (None, r"is object\[\]"),
        (Image.fromarray(GREY.astype(np.int32)), "has 32-bit levels"),
    ],
    ids=["floats", "channels first", "wide integers", "two channels", "no rows", "none", "mode I"],
)
def test_what_is_no_image_is_refused_when_it_is_read(image, said):
    source = from_object([(image, 0)])
    with pytest.raises(DataError, match=said):
        source[0]


def test_the_fingerprint_changes_with_labels_classes_and_sampled_images():
    images = [np.full((4, 4, 3), n, np.uint8) for n in range(5)]
    changed = [*images[:4], images[4] + 1]
    sources = [
        from_object([(image, 0) for image in images], classes="ab"),
        from_object([(image, 0) for image in changed], classes="ab"),
        from_object([(image, 0) for image in images], classes="xy"),
        from_object([(image, 1) for image in images], classes="ab"),
        from_object([(image, 0) for image in images[:4]], classes="ab"),
    ]
    assert len({source.fingerprint for source in sources}) == 5
    again = from_object([(Image.fromarray(image), 0) for image in images], classes="ab")
    assert again.fingerprint == sources[0].fingerprint


def test_the_fingerprint_reads_no_more_than_a_sample():
    examples = Dataset([(GREY, 0)] * 1000, labels=[0] * 1000)
    assert len(from_object(examples).fingerprint) == 64
    assert examples.reads == 64


def test_a_source_of_an_object_survives_a_journey_to_another_process():
    source = from_object([(COLOUR, 0), (GREY, 1)])
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint == source.fingerprint
    assert copy.name(1) == "1"


def write(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


IMAGES = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("image", "label"), ("x", "y"), ("images", "y")]
)
def test_a_file_of_arrays_is_a_source(tmp_path, images, labels):
    source = load_npz(write(tmp_path, **{images: IMAGES, labels: LABELS}))
    np.testing.assert_array_equal(source.images, IMAGES)
    np.testing.assert_array_equal(source.labels, LABELS)
    assert (source.classes, dict(source.splits)) == (("0", "1", "2"), {})


def test_a_file_of_split_arrays_names_its_splits(tmp_path):
    path = write(
        tmp_path,
        **{"x_test": IMAGES[4:, ..., 0], "y_test": LABELS[4:, None]},
        **{"x_train": IMAGES[:4, ..., 0], "y_train": LABELS[:4, None]},
        classes=["ant", "bee", "cat"],
    )
    source = load_npz(path)
    np.testing.assert_array_equal(source.images, np.repeat(IMAGES[..., :1], 3, -1))
    np.testing.assert_array_equal(source.labels, LABELS)
    assert source.classes == ("ant", "bee", "cat")
    found = {name: indices.tolist() for name, indices in source.splits.items()}
    assert found == {"train": [0, 1, 2, 3], "test": [4, 5]}


def test_labels_in_a_file_may_be_names(tmp_path):
    source = load_npz(write(tmp_path, images=IMAGES, labels=["b", "a", "b", "a", "b", "b"]))
    assert source.classes == ("a", "b")
    np.testing.assert_array_equal(source.labels, [1, 0, 1, 0, 1, 1])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": IMAGES}, r"one of labels \(labels, label, y\); it holds x uint8\[6, 4, 4, 3\]"),
        ({"pictures": IMAGES, "kinds": LABELS}, "must have images and labels.* it holds pictures"),
        ({"x": IMAGES, "images": IMAGES, "y": LABELS}, "must have one array of images"),
        ({"x": IMAGES, "y": LABELS[:5]}, "6 images but 5 labels; it holds"),
        ({"x": IMAGES, "y": np.array(3)}, "6 images but 1 labels"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "0 images but 0 labels"),
        ({"x": IMAGES / 255, "y": LABELS}, r"is float64\[4, 4, 3\]; give uint8 in 0\.\.255"),
        (
            {"x": np.moveaxis(IMAGES, -1, 1), "y": LABELS},
            r"uint8\[3, 4, 4\]; put the channels last",
        ),
        ({"x": np.uint8(3), "y": LABELS}, r"each image of .* is uint8\[\]"),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, :2], "y_test": LABELS},
            "its splits differ in the size of their images",
        ),
        ({"x": IMAGES, "y": LABELS, "x_test": IMAGES, "y_test": LABELS}, "must have images"),
        ({"x": IMAGES, "y": LABELS / 2}, "labels of .* are float64"),
        ({}, "it holds nothing"),
    ],
)
def test_files_of_other_arrays_are_refused_with_what_they_hold(tmp_path, arrays, said):
    with pytest.raises(DataError, match=said):
        load_npz(write(tmp_path, **arrays))


class Trap:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self):
        return setattr, (Trap, "ran", True)


def test_nothing_in_a_file_can_run_code(tmp_path):
    path = write(tmp_path, x=IMAGES, y=np.array([Trap()] * 6))
    with pytest.raises(DataError, match=r"no \.npz file of plain arrays: Object arrays cannot be"):
        load_npz(path)
    assert not Trap.ran


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        load_npz(tmp_path / "nothing.npz")
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(DataError, match=r"one\.npy is no \.npz file of plain arrays"):
        load_npz(tmp_path / "one.npy")
    whole = write(tmp_path, x=IMAGES, y=LABELS)
    assert zipfile.is_zipfile(whole)
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a\.npz is no \.npz file of plain arrays"):
        load_npz(whole)
    whole.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.npz is no \.npz file of plain arrays"):
        load_npz(whole)
