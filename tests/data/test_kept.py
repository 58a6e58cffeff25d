"""Kept images: what evaluation and crops see of them, and that they are whole or not there."""

import dataclasses
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jtl.data.crop import CropOptions
from jtl.data.decode import open_picture
from jtl.data.kept import keep_images
from jtl.data.reader import Reader
from jtl.errors import ChangedDataError, DataError
from jtl.weights.preprocess import Preprocess
from tests.data.photos import photo_bytes, photo_folder

PREPROCESS = Preprocess(input_size=24, resize=28, background=(10, 200, 30))
EVERYTHING = np.arange(12)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return photo_folder(tmp_path_factory.mktemp("photos"))


def keep(source, folder, form="raw", preprocess=PREPROCESS, **how):
    return keep_images(
        source,
        form=form,
        folder=folder,
        shrink=preprocess.shrink,
        identity=preprocess.shrinking,
        **how,
    )


def reader(source, kept=None, preprocess=PREPROCESS, **how):
    return Reader(
        source=source,
        size=preprocess.input_size,
        fit=preprocess.resize_and_crop,
        background=preprocess.background,
        kept=kept,
        **how,
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_evaluation_sees_the_same_bits_in_kept_pixels(source, tmp_path, interpolation):
    own = dataclasses.replace(PREPROCESS, interpolation=interpolation)
    kept = keep(source, tmp_path, preprocess=own)
    plain = reader(source, preprocess=own).gather(EVERYTHING)
    again = reader(source, kept, own).gather(EVERYTHING)
    np.testing.assert_array_equal(plain["image"], again["image"])
    np.testing.assert_array_equal(plain["label"], again["label"])


def test_kept_files_differ_by_what_compression_does(source, tmp_path):
    kept = keep(source, tmp_path, "resized")
    plain = reader(source).gather(EVERYTHING)["image"].astype(int)
    again = reader(source, kept).gather(EVERYTHING)["image"].astype(int)
    difference = np.abs(plain - again).mean(axis=(1, 2, 3))
    assert difference.max() < 8
    # What was no larger is kept as it came.
    small = [index for index in EVERYTHING if min(size_of(source, index)) <= PREPROCESS.resize]
    assert 0 < len(small) < len(EVERYTHING)
    assert difference[small].max() == 0


def size_of(source, index):
    picture = open_picture(source[index], "it")
    return picture.height, picture.width


@pytest.mark.parametrize("form", ["raw", "resized"])
def test_crops_are_the_same_part_of_the_image(source, tmp_path, form):
    crop = CropOptions(area=(0.3, 1.0))
    views = np.arange(12)
    kept = keep(source, tmp_path, form)
    plain = reader(source, crop=crop).gather(EVERYTHING, views)["image"].astype(int)
    again = reader(source, kept, crop=crop).gather(EVERYTHING, views)["image"].astype(int)
    other = reader(source, kept, crop=crop, seed=1).gather(EVERYTHING, views)["image"].astype(int)
    assert np.abs(plain - again).mean() < 6
    assert np.abs(plain - other).mean() > 12
    np.testing.assert_array_equal(
        [size_of(source, index) for index in EVERYTHING],
        [(own.height, own.width) for own in map(kept.picture, EVERYTHING)],
    )


class Untouchable:
    """A source whose images may not be read any more."""

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        raise AssertionError(f"image {index} was read again")


@pytest.mark.parametrize("form", ["raw", "resized"])
def test_later_runs_find_what_was_kept(source, tmp_path, form):
    first = keep(source, tmp_path, form)
    later = keep(Untouchable(source), tmp_path, form, threads=3)
    for index in EVERYTHING:
        np.testing.assert_array_equal(first.picture(index).pixels(), later.picture(index).pixels())
    sent = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(first.picture(5).pixels(), sent.picture(5).pixels())


def test_other_data_sizes_and_backgrounds_are_kept_apart(source, tmp_path):
    smaller = photo_folder(tmp_path / "photos", 11)
    backed = dataclasses.replace(PREPROCESS, background=(0, 0, 0))
    larger = dataclasses.replace(PREPROCESS, resize=32)
    kept = [
        keep(source, tmp_path / "kept"),
        keep(source, tmp_path / "kept", "resized"),
        keep(smaller, tmp_path / "kept"),
        keep(source, tmp_path / "kept", preprocess=backed),
        keep(source, tmp_path / "kept", preprocess=larger),
    ]
    assert len({own.folder for own in kept}) == len(kept)


def test_images_that_cannot_be_read_stay_errors_with_their_path(tmp_path):
    photo_folder(tmp_path / "photos")
    (tmp_path / "photos/class0/000.jpeg").write_bytes(photo_bytes(0)[:150])
    source = photo_folder_as_it_is(tmp_path / "photos")
    kept = keep(source, tmp_path / "kept")
    with pytest.raises(DataError, match=r"photos/class0/000\.jpeg is no image that can be read"):
        reader(source, kept).gather(EVERYTHING)
    skipped = reader(source, kept, skip=True).gather(EVERYTHING)
    assert skipped["mask"].tolist() == [False] + [True] * 11


def photo_folder_as_it_is(root):
    from jtl.data.sources.folders import load_folder

    return load_folder(root)


def test_an_image_above_the_limit_is_refused_though_it_was_kept(source, tmp_path):
    kept = keep(source, tmp_path, max_pixels=10_000)
    kept = dataclasses.replace(kept, max_pixels=2_000)
    index = next(i for i in EVERYTHING if np.prod(size_of(source, i)) > 2_000)
    with pytest.raises(DataError, match=r"more than data\.max_pixels=2000"):
        kept.picture(index)


def test_a_dataset_edited_meanwhile_is_not_kept(tmp_path):
    source = photo_folder(tmp_path / "photos")
    _ = source.fingerprint
    os.utime(tmp_path / "photos/class1/001.jpeg", ns=(1, 1))
    with pytest.raises(ChangedDataError, match=r"001\.jpeg was changed while"):
        keep(source, tmp_path / "kept")
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".lock"]


def test_what_is_not_whole_is_made_anew(source, tmp_path):
    first = keep(source, tmp_path)
    expected = [first.picture(index).pixels().copy() for index in EVERYTHING]
    left = first.folder.with_name(f"{first.folder.name}.part-1")
    left.mkdir()
    (left / "images.bin").write_bytes(b"half")
    for damage in (
        lambda: (first.folder / "images.bin").write_bytes(b"cut off"),
        lambda: (first.folder / "index.npz").write_bytes(b"no archive"),
        lambda: (first.folder / "index.npz").unlink(),
    ):
        damage()
        again = keep(source, tmp_path)
        for index, pixels in enumerate(expected):
            np.testing.assert_array_equal(again.picture(index).pixels(), pixels)
    assert not left.exists()


def test_a_folder_that_cannot_be_written_says_which_option(source, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be kept there .*; set data\.cache_dir"):
        keep(source, tmp_path / "file")


def test_threads_that_start_together_make_it_once(source, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(lambda _: keep(source, tmp_path), range(4)))
    assert len({own.folder for own in kept}) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


KEEPING = """
import sys
from pathlib import Path
from tests.data.test_kept import keep
from jtl.data.sources.folders import load_folder
print(keep(load_folder(Path(sys.argv[1])), Path(sys.argv[2]), "resized").picture(3).pixels().sum())
"""


@pytest.mark.slow
def test_processes_that_start_together_make_it_once(source, tmp_path):
    command = [sys.executable, "-c", KEEPING, str(source.root), str(tmp_path)]
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(said) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
