from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.errors import WeightsError
from jtl.weights.source import open_weights

NAME = "resnet18.tv_in1k_v1"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, no network, and an empty working folder."""
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JTL_OFFLINE", "1")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(path):
    save_file({"a": np.ones(2, np.float32)}, path)


def test_a_file_in_the_working_folder_needs_no_suffix(offline):
    write(offline / "mine")
    file, released = open_weights("mine")
    assert (list(file.tensors), released) == (["a"], None)


def test_a_name_of_the_catalogue_comes_before_a_file_of_that_name(offline):
    write(offline / NAME)
    with pytest.raises(WeightsError, match="offline"):
        open_weights(NAME)
    assert list(open_weights(f"./{NAME}")[0].tensors) == ["a"]
    assert list(open_weights(Path(NAME))[0].tensors) == ["a"]


def test_a_missing_path_is_not_looked_up_as_a_name(offline):
    write(offline / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"weights\.safetensors"):
        open_weights("weight.safetensors")


def test_an_unknown_name_gets_the_nearest_of_the_catalogue(offline):
    with pytest.raises(WeightsError, match=r"resnet18\.tv_in1k_v1"):
        open_weights("resnet18.tv_in1k")


def test_addresses_and_hub_files_go_to_the_cache(offline):
    (offline / "https:").mkdir()
    for name in ("https://127.0.0.1:9/a.safetensors", f"hf:owner/name/a.safetensors@{'0' * 40}"):
        with pytest.raises(WeightsError, match="offline"):
            open_weights(name)


def test_a_pytree_is_taken_as_it_is():
    file, released = open_weights({"params": {"a": np.ones(2, np.float32)}})
    assert (file.format, released) == ("pytree", None)
