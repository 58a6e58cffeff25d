import gzip
import shutil

import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import DATA, GOLDEN, assert_same, safetensors

FORMATS = {
    "torch-plain.pth": "torch",
    "torch-legacy.pth": "torch",
    "torch-folded.onnx": "onnx",
    "torch-separate.onnx": "onnx",
    "keras-net.h5": "keras-h5",
    "keras-net.weights.h5": "keras-h5",
    "keras-net.keras": "keras",
}
ONE = safetensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\x05")


def refusal(path, **options):
    with pytest.raises(WeightsError) as caught:
        read_weights(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("suffix", ["", ".bin", ".pth", ".safetensors"])
def test_the_format_is_told_by_the_content_whatever_the_suffix(tmp_path, name, suffix):
    path = tmp_path / f"weights{suffix}"
    shutil.copy(DATA / name, path)
    weights = read_weights(path)
    assert (weights.format, weights.path) == (FORMATS[name], str(path))
    assert_same(weights.tensors, read_weights(DATA / name).tensors)


def test_a_path_may_be_text(tmp_path):
    (tmp_path / "a").write_bytes(ONE)
    assert_same(read_weights(str(tmp_path / "a")).tensors, {"a": np.array([5], np.uint8)})


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        (".safetensors", "its header claims"),
        (".pth", "the end of its zip directory is missing"),
        (".npz", "the end of its zip directory is missing"),
        (".keras", "the end of its zip directory is missing"),
        (".h5", "is damaged as an HDF5 file"),
        (".onnx", "is damaged as an ONNX file"),
        (".msgpack", "is no Flax msgpack file"),
        (".bin", "of no known format; readable are safetensors, torch"),
        ("", "of no known format; readable are safetensors, torch"),
    ],
)
def test_content_of_no_format_is_judged_by_its_suffix(tmp_path, suffix, said):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"\xc1\xc2\xc3nonsense" * 10)
    assert said in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (gzip.compress(b"weights", mtime=0), "packed with gzip"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x93NUMPY\x01\x00", "np.savez"),
        (b"PK\x05\x06" + bytes(18), "is a zip file of nothing"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".pth", ".safetensors"])
def test_what_people_have_instead_of_weights_is_recognised(tmp_path, content, said, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert said in refusal(path)


def test_a_missing_file_is_answered_with_the_nearest_names(tmp_path):
    for name in ("resnet50.safetensors", "resnet18.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(ONE)
    said = refusal(tmp_path / "resnet5O.safetensors")
    assert "no such file; the nearest names there: resnet50.safetensors" in said
    assert "notes.txt" not in said


def test_a_missing_file_far_from_any_name_lists_the_weights_there_are(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(ONE)
    assert "its folder holds a.safetensors" in refusal(tmp_path / "quite-another-thing")


def test_a_missing_folder_is_named(tmp_path):
    assert f"no folder {tmp_path / 'none'}" in refusal(tmp_path / "none" / "a.pth")


def test_a_folder_of_weights_lists_them(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(ONE)
    said = refusal(tmp_path)
    assert "is a folder, but not an Orbax checkpoint" in said
    assert f"give one, as in {tmp_path / 'a.safetensors'}" in said


def test_an_empty_folder_is_refused(tmp_path):
    assert "it holds nothing" in refusal(tmp_path)


def test_a_device_is_not_read():
    assert "no regular file" in refusal("/dev/zero")


def test_a_name_too_long_for_the_system_is_refused(tmp_path):
    refusal(tmp_path / ("x" * 5000))


def test_an_entry_is_refused_where_the_format_has_none(tmp_path):
    (tmp_path / "a").write_bytes(ONE)
    assert "entry='ema'" in refusal(tmp_path / "a", entry="ema")


@pytest.mark.parametrize("name", GOLDEN)
def test_nothing_but_keras_names_are_rewritten_and_each_change_is_noted(name):
    weights = read_weights(DATA / name)
    assert all(isinstance(note, str) and note for note in weights.notes)
    assert all(tensor.dtype.isnative for tensor in weights.tensors.values())
