"""TFDS datasets: real small ones, read without TensorFlow, and names that are wrong."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jtl.data.decode import open_picture
from jtl.data.options import DataOptions, load_source
from jtl.data.pipeline import TrainOrder, train_batches
from jtl.data.reader import Reader
from jtl.data.sources.tfds import from_builder, load_tfds, open_folder
from jtl.errors import ChangedDataError, DataError
from tests.data.sources.files import plant
from tests.data.sources.tfds_sets import (
    CLASSES,
    SIZES,
    Small,
    SmallFolder,
    SmallPlain,
    SmallSeveral,
    as_tfrecord,
    draw,
    example_number,
    prepared,
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepared(Small, folder)
    return folder


def numbers():
    return [example_number(split, place) for split in SIZES for place in range(SIZES[split])]


def test_splits_classes_and_labels_are_those_of_the_builder(data_dir):
    source = load_tfds("small", data_dir=data_dir)
    assert source.classes == CLASSES
    sizes = {name: len(own) for name, own in source.splits.items()}
    assert sizes == {"train": 12, "val": 5, "test": 4}
    assert sum(sizes.values()) == len(source)
    assert source.provenance["dataset"] == "tfds:small/1.2.0"
    assert source.provenance["licence"] == "CC0 1.0"
    names = [source.name(index) for index in range(len(source))]
    assert len(set(names)) == len(names)


def test_images_are_the_files_that_were_stored(data_dir):
    source = load_tfds("small:1.2.0", data_dir=data_dir)
    files = {draw(number): number for number in numbers()}
    found = [files[source[index]] for index in range(len(source))]
    assert sorted(found) == sorted(numbers())
    np.testing.assert_array_equal(source.labels, np.array(found) % 3)


def test_a_config_reads_it_and_batches_come_of_it(data_dir):
    source = load_source(DataOptions(source="tfds:small", data_dir=str(data_dir)))
    reader = Reader(source=source, size=8, fit=lambda image: image[:8, :8].copy())
    order = TrainOrder(indices=source.splits["train"], batch_size=4, seed=0)
    batches = list(train_batches(reader, order, start=0, stop=3))
    assert np.concatenate([batch["example"] for batch in batches]).size == 12
    for batch in batches:
        for image, example in zip(batch["image"], batch["example"]):
            expected = open_picture(source[int(example)], "it").pixels()[:8, :8]
            np.testing.assert_array_equal(image, expected)


def test_tensorflow_never_enters_the_process(data_dir):
    code = (
        "import sys; from pathlib import Path; from jtl.data.sources.tfds import load_tfds; "
        f"source = load_tfds('small', data_dir=Path({str(data_dir)!r})); source[0]; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tfrecord_is_read_as_array_record_is(data_dir, tmp_path):
    source = load_tfds("small", data_dir=data_dir)
    folder = data_dir / "small/1.2.0"
    copy = open_folder(as_tfrecord(folder, tmp_path))
    assert copy.provenance["stored as"] == "tfrecord"
    assert copy.fingerprint == source.fingerprint
    np.testing.assert_array_equal(copy.labels, source.labels)
    assert [copy[index] for index in range(len(copy))] == [source[i] for i in range(len(source))]
    again = open_folder(tmp_path / "small/1.2.0")  # from the index that was kept
    assert again[3] == source[3]


def test_a_folder_of_images_by_a_builder_of_ones_own(tmp_path):
    root = plant(tmp_path / "images", ["cat/1.png", "cat/2.png", "dog/3.png"])
    source = from_builder(SmallFolder(root=root, data_dir=str(tmp_path / "tfds")))
    assert source.classes == ("cat", "dog")
    assert sorted(source.labels.tolist()) == [0, 0, 1]
    levels = {int(np.asarray(Image.open(io.BytesIO(source[i])))[0, 0, 0]) for i in range(3)}
    assert levels == {0, 1, 2}
    named = from_builder(Small, data_dir=tmp_path / "tfds")
    assert len(named) == sum(SIZES.values())


def test_several_labels_and_plain_numbers(tmp_path):
    several = from_builder(SmallSeveral, data_dir=tmp_path)
    assert several.labels.shape == (21, 3)
    assert set(several.labels.sum(axis=1)) == {0, 1, 2}
    plain = from_builder(SmallPlain, data_dir=tmp_path)
    assert set(plain.splits) == {"train", "val"}
    assert plain.provenance["splits without labels, left out"] == ["test"]
    image = plain[0]
    assert image.shape == (4, 5, 3)
    assert len(np.unique(image)) == 1


def test_a_dataset_that_changes_while_it_is_read_is_noticed(data_dir, tmp_path):
    folder = as_tfrecord(data_dir / "small/1.2.0", tmp_path)
    source = open_folder(folder)
    file = next(folder.glob("*train.tfrecord-00000*"))
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ChangedDataError, match="was changed while the dataset was in use"):
        source[0]


def test_missing_files_are_listed(data_dir, tmp_path):
    folder = as_tfrecord(data_dir / "small/1.2.0", tmp_path)
    for path in folder.glob("*train.tfrecord*"):
        path.unlink()
    with pytest.raises(DataError, match=r"lacks 2 of its files: .*train.*00000.*00001"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smal", "TFDS has no dataset 'smal'.*did you mean small"),
        ("cifar1", "did you mean cifar10"),
        ("small:9.9.9", "has no version '9.9.9'|which holds 1.2.0"),
        ("imagenette/16px", "imagenette has no config '16px'.*160px"),
        ("no name/at:all", "is no name of a TFDS dataset"),
        ("evil\n\u202ename", r"evil\\n\\u202ename is no name"),
    ],
)
def test_a_name_that_there_is_not_says_what_there_is(data_dir, name, said):
    with pytest.raises(DataError, match=said):
        load_tfds(name, data_dir=data_dir)


def test_what_must_be_prepared_says_which_commands(data_dir):
    if subprocess.run([sys.executable, "-c", "import tensorflow"], check=False).returncode == 0:
        pytest.skip("TensorFlow is installed")
    said = r"takes TensorFlow, once: run `pip install 'jtl\[tfds\]'`, then `jtl data prepare tfds:"
    with pytest.raises(DataError, match=said):
        load_tfds("oxford_flowers102", data_dir=data_dir)
