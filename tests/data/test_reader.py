"""Reading: one way for all that look at images, and what becomes of those that cannot be read."""

import dataclasses
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.crop import CropOptions
from jtl.data.reader import Reader, sized_once
from jtl.data.sources.arrays import from_arrays
from jtl.errors import ChangedDataError, DataError
from jtl.weights.preprocess import Preprocess
from tests.data.photos import photo_bytes, photo_folder

PREPROCESS = Preprocess(input_size=16, resize=18, background=(1, 50, 200))
EVERYTHING = np.arange(12)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return reader_of(photo_folder(tmp_path_factory.mktemp("photos")))


def reader_of(source, **how):
    return Reader(
        source=source,
        size=16,
        fit=PREPROCESS.resize_and_crop,
        crop=CropOptions(),
        background=PREPROCESS.background,
        **how,
    )


@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=20),
    st.integers(0, 5),
    st.sampled_from([1, 2, 3]),
)
def test_an_example_is_the_same_in_any_company_and_on_any_threads(reader, chosen, epoch, threads):
    alone = reader.gather(EVERYTHING, np.full(12, epoch))
    several = dataclasses.replace(reader, threads=threads)
    found = several.gather(np.array(chosen), np.full(len(chosen), epoch))
    for name in ("image", "label", "mask"):
        np.testing.assert_array_equal(found[name], alone[name][chosen])


def test_views_and_seeds_crop_anew(reader):
    def images(own, view):
        return own.gather(EVERYTHING, np.full(12, view))["image"]

    first = images(reader, 0)
    np.testing.assert_array_equal(first, images(reader, 0))
    assert (first != images(reader, 1)).any(axis=(1, 2, 3)).all()
    other = dataclasses.replace(reader, seed=7)
    assert (first != images(other, 0)).any(axis=(1, 2, 3)).all()


def test_evaluation_and_prediction_see_the_same_pixels_on_the_same_background(reader):
    from jtl.data.decode import read_image

    evaluated = reader.gather(EVERYTHING)["image"]
    for index in EVERYTHING:
        path = reader.source.path(index)
        predicted = PREPROCESS.resize_and_crop(read_image(path))
        np.testing.assert_array_equal(evaluated[index], predicted)
    plain = dataclasses.replace(reader, crop=None)
    np.testing.assert_array_equal(plain.gather(EVERYTHING, np.zeros(12, int))["image"], evaluated)


def test_a_damaged_image_stops_with_its_path_or_is_masked(tmp_path):
    photo_folder(tmp_path)
    (tmp_path / "class0/004.jpeg").write_bytes(photo_bytes(4)[:200])
    (tmp_path / "class1/007.png").write_bytes(b"\x89PNG\r\n\x1a\n, it says")
    source = photo_folder_again(tmp_path)
    with pytest.raises(DataError, match=r"class0/004\.jpeg is no image that can be read"):
        reader_of(source).gather(np.array([0, source_index(source, "004")]))
    found = reader_of(source, skip=True, threads=2).gather(EVERYTHING, np.zeros(12, int))
    assert np.flatnonzero(~found["mask"]).tolist() == [source_index(source, "004"),
                                                       source_index(source, "007")]  # fmt: skip
    assert not found["image"][~found["mask"]].any()


def source_index(source, number):
    return next(i for i in range(len(source)) if number in source.name(i))


def photo_folder_again(root):
    from jtl.data.sources.folders import load_folder

    return load_folder(root)


@pytest.mark.parametrize("change", ["written to", "gone"])
def test_a_file_that_changed_is_never_skipped(tmp_path, change):
    source = photo_folder(tmp_path)
    path = tmp_path / "class1/003.png"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(photo_bytes(99, "PNG"))
    with pytest.raises(ChangedDataError, match=r"003\.png was changed while"):
        reader_of(source, skip=True).gather(EVERYTHING)


def test_images_in_memory_are_sized_once_to_the_same_pixels():
    rng = np.random.default_rng(0)
    source = from_arrays(rng.integers(0, 256, (5, 20, 30, 3), dtype=np.uint8), np.arange(5))
    plain = dataclasses.replace(reader_of(source), crop=None)
    seen = []

    def fit(image):
        seen.append(image)
        return PREPROCESS.resize_and_crop(image)

    once = sized_once(dataclasses.replace(plain, fit=fit))
    assert not seen
    for indices in ([3, 1], [1, 1, 0], [4, 3, 2, 1, 0]):
        indices = np.array(indices)
        np.testing.assert_array_equal(once.gather(indices)["image"], plain.gather(indices)["image"])
    assert len(seen) == 5
    assert sized_once(reader_of(source)).sized is None
    assert once.in_memory
    assert not plain.in_memory
    elsewhere = pickle.loads(pickle.dumps(sized_once(plain)))
    np.testing.assert_array_equal(
        elsewhere.gather(np.arange(5))["image"], plain.gather(np.arange(5))["image"]
    )


@pytest.mark.parametrize("size", [8, 12])
def test_images_lie_where_a_device_takes_them_without_a_copy(size):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    source = from_arrays(pixels, np.zeros(6, np.int32), ["all"])
    reader = Reader(source=source, size=size, fit=lambda image: np.resize(image, (size, size, 3)))
    for chosen in ([0], [5, 0, 3], [1, 1, 2, 4, 4]):
        image = reader.gather(np.array(chosen))["image"]
        assert image.ctypes.data % 64 == 0
        expected = [reader.fit(pixels[index]) for index in chosen]
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("turned", [False, True])
def test_views_of_images_in_memory_are_read_without_a_copy_of_all(turned):
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (40_000, 3, 16, 16), dtype=np.uint8)
    images = planes.transpose(0, 2, 3, 1)[..., ::-1] if turned else planes.transpose(0, 2, 3, 1)
    reader = reader_of(from_arrays(images, np.zeros(40_000, int)))
    indices = np.array([7, 3, 39_999])
    tracemalloc.start()
    found = reader.gather(indices)["image"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, images[indices])
    assert most < planes.nbytes / 100
