import io
import json
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import DATA, KERAS_SHAPES, assert_same, ruled, zipped

NET = ruled(KERAS_SHAPES)
# Without a configuration the file does not say which of scale and centre a BatchNorm lacks.
GUESSED = {
    name.replace("batch_normalization_1/gamma", "batch_normalization_1/beta"): tensor
    for name, tensor in NET.items()
}


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def without_names(source, path):
    """The same file as Keras 3 wrote it before it kept the layers' names."""
    path.write_bytes(source)
    with h5py.File(path, "a") as file:
        file.visititems(lambda _, node: node.attrs.pop("name", None) and None)
    return path


@pytest.mark.parametrize("name", ["keras-net.h5", "keras-net.keras"])
def test_a_real_model_is_read_bit_for_bit_in_its_own_order(name):
    weights = read_weights(DATA / name)
    assert_same(weights.tensors, NET)
    assert list(weights.tensors) == list(NET)
    assert weights.notes == ()
    assert weights.metadata["keras_version"] == "3.15.1"
    assert ["Conv2D", "conv1_conv"] in json.loads(weights.metadata["layers"])


def test_a_weights_file_is_read_by_its_layers_names_and_says_what_it_took_for_granted():
    weights = read_weights(DATA / "keras-net.weights.h5")
    assert_same(weights.tensors, GUESSED)
    assert weights.notes == ("took 2 normalisations of three variables for ones without scale",)


@pytest.mark.parametrize("name", ["keras-tuned.h5", "keras-tuned.keras", "keras-tuned.weights.h5"])
def test_a_model_within_a_model_is_opened(name):
    weights = read_weights(DATA / name)
    head = {n: t for n, t in weights.tensors.items() if n.startswith("new_head/")}
    assert {n: t.shape for n, t in head.items()} == {
        "new_head/kernel": (5, 2),
        "new_head/bias": (2,),
    }
    rest = {n: t for n, t in weights.tensors.items() if n not in head}
    assert_same(rest, GUESSED if name.endswith(".weights.h5") else NET)
    assert "opened the submodel 'net'" in weights.notes
    assert any("left aside 'optimizer" in note for note in weights.notes)


def test_values_of_bfloat16_are_read():
    tensors = read_weights(DATA / "keras-bfloat16.weights.h5").tensors
    assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == {
        "half/kernel": ((3, 2), ml_dtypes.bfloat16),
        "half/bias": ((2,), ml_dtypes.bfloat16),
    }
    assert np.isfinite(tensors["half/kernel"].astype(np.float32)).all()


def test_tensors_are_views_of_the_mapped_file_even_within_a_zip():
    for name in ("keras-net.h5", "keras-net.weights.h5", "keras-net.keras"):
        tensors = read_weights(DATA / name).tensors.values()
        assert not any(tensor.flags.owndata for tensor in tensors)


def test_layers_without_names_are_named_by_class_and_rank(tmp_path):
    source = (DATA / "keras-net.weights.h5").read_bytes()
    weights = read_weights(without_names(source, tmp_path / "a.weights.h5"))
    assert sorted({name.split("/")[0] for name in weights.tensors}) == [
        *("batch_normalization", "batch_normalization_1", "batch_normalization_2"),
        *("conv2d", "conv2d_1", "conv2d_2", "dense"),
    ]
    np.testing.assert_array_equal(weights.tensors["conv2d/kernel"], NET["conv1_conv/kernel"])
    np.testing.assert_array_equal(weights.tensors["conv2d_2/kernel"], NET["conv2d_1/kernel"])
    assert "7 layers bear no name: they are named by class and rank" in weights.notes


def test_layers_without_names_take_those_of_the_configuration(tmp_path):
    with zipfile.ZipFile(DATA / "keras-net.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}
    bare = without_names(members["model.weights.h5"], tmp_path / "bare.h5")
    members["model.weights.h5"] = bare.read_bytes()
    assert_same(read_weights(zipped(tmp_path / "a.keras", members)).tensors, NET)


def legacy(path, layers, root="", chunked=False):
    """A file of the released layout: `{layer: {weight name: array}}`."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        names = [name.encode() for name in layers]
        if chunked:
            group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:1], names[1:]
        else:
            group.attrs["layer_names"] = names
        for layer, weights in layers.items():
            own = group.create_group(layer)
            own.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in weights.items():
                own[name] = array
    return path


KERNEL, BIAS = np.arange(36.0).reshape(3, 3, 2, 2), np.arange(2.0)


@pytest.mark.parametrize("root", ["", "model_weights"])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_released_layout_is_read(tmp_path, root, chunked):
    layers = {
        "conv1": {"conv1/kernel:0": KERNEL, "conv1/bias:0": BIAS},
        "bn1": {"bn1_2/gamma:0": BIAS, "bn1_2/moving_variance:0": BIAS},
        "pool": {},
    }
    weights = read_weights(legacy(tmp_path / "a.h5", layers, root, chunked))
    assert_same(
        weights.tensors,
        {
            "conv1/kernel": KERNEL,
            "conv1/bias": BIAS,
            "bn1/gamma": BIAS,
            "bn1/moving_variance": BIAS,
        },
    )


def test_the_names_of_keras_1_are_translated(tmp_path):
    layers = {
        "block1_conv1": {"block1_conv1_W_1:0": KERNEL, "block1_conv1_b_1:0": BIAS},
        "bn": {"bn_gamma:0": BIAS, "bn_beta:0": BIAS, "bn_running_mean:0": BIAS},
        "bn2": {"bn2_running_std:0": BIAS},
    }
    assert sorted(read_weights(legacy(tmp_path / "a.h5", layers)).tensors) == [
        *("block1_conv1/bias", "block1_conv1/kernel", "bn/beta", "bn/gamma", "bn/moving_mean"),
        "bn2/moving_variance",
    ]


def test_layers_of_one_name_in_two_submodels_keep_their_whole_path(tmp_path):
    layers = {
        "left": {"conv/kernel:0": KERNEL, "dense/kernel:0": BIAS},
        "right": {"conv/kernel:0": KERNEL * 2, "other/kernel:0": BIAS},
    }
    assert sorted(read_weights(legacy(tmp_path / "a.h5", layers)).tensors) == [
        *("dense/kernel", "left/conv/kernel", "other/kernel", "right/conv/kernel")
    ]


def test_a_listed_weight_that_is_missing_is_named(tmp_path):
    path = legacy(tmp_path / "a.h5", {"conv1": {"conv1/kernel:0": KERNEL}})
    with h5py.File(path, "a") as file:
        del file["conv1/conv1/kernel:0"]
    assert "lists the weight 'conv1/kernel:0' of layer 'conv1'" in refusal(path)


@pytest.mark.parametrize("name", ["keras-lambda.keras", "keras-lambda.h5"])
def test_a_lambda_layer_is_refused_by_its_name(name):
    said = refusal(DATA / name)
    assert "its layer 'double' is a Lambda" in said
    assert "save_weights" in said


def test_a_lambda_within_a_submodel_is_found(tmp_path):
    inner = {"class_name": "Functional", "config": {"layers": [{"class_name": "Lambda"}]}}
    config = {"class_name": "Functional", "config": {"layers": [inner]}}
    with zipfile.ZipFile(DATA / "keras-net.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}
    members["config.json"] = json.dumps(config).encode()
    assert "is a Lambda" in refusal(zipped(tmp_path / "a.keras", members))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[" * 900 + b"]" * 900, "nested too deeply"),
    ],
)
def test_a_damaged_configuration_is_refused(tmp_path, config, said):
    members = {"config.json": config, "model.weights.h5": b""}
    assert said in refusal(zipped(tmp_path / "a.keras", members))


@pytest.mark.parametrize("config", [b"3", b"null", b'{"config": {"layers": [1, {"config": 2}]}}'])
def test_an_odd_configuration_changes_nothing(tmp_path, config):
    with zipfile.ZipFile(DATA / "keras-net.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}
    members["config.json"] = config
    assert_same(read_weights(zipped(tmp_path / "a.keras", members)).tensors, GUESSED)


def test_a_keras_file_without_weights_says_what_it_holds(tmp_path):
    path = zipped(tmp_path / "a.keras", {"config.json": b"{}", "other.h5": b""})
    assert "holds no model.weights.h5, only config.json, other.h5" in refusal(path)


def test_an_hdf5_file_of_something_else_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros(3)
    assert "not one of Keras" in refusal(tmp_path / "a.h5")


def test_a_compressed_file_within_a_zip_is_read(tmp_path):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "head"
        group.create_dataset("0", data=KERNEL, chunks=True, compression="gzip", shuffle=True)
    members = {"config.json": b"{}", "model.weights.h5": buffer.getvalue()}
    path = zipped(tmp_path / "a.keras", members, zipfile.ZIP_DEFLATED)
    assert_same(read_weights(path).tensors, {"head/kernel": KERNEL})
