import json
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from jtl.errors import ConfigError, WeightsError
from jtl.models.registry import create_model
from jtl.tree import differences, flatten, map_with_path
from jtl.weights.layouts.shapes import variable_shapes
from jtl.weights.load import load_model
from jtl.weights.preprocess import Preprocess
from jtl.weights.save import save_weights
from tests import golden
from tests.weights.drawn import TINY, mini, tiny

TIMM = json.loads((Path(__file__).parent / "data" / "timm_tensors.json").read_text())


def metadata(path):
    with safe_open(path, "numpy") as file:
        return file.metadata()


@pytest.mark.parametrize("layout", ["jtl", "torchvision", "timm"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_variables_are_bit_identical_after_a_round_trip(tmp_path, layout, dtype):
    model, variables = tiny(dtype=dtype)
    path = save_weights(tmp_path / "a.safetensors", model, variables, layout=layout)
    assert differences(variables, load_model("resnet18", path, **TINY).variables) == []


def test_float64_is_bit_identical_after_a_round_trip_with_x64(tmp_path, x64):
    model, variables = mini(dtype=np.float64)
    path = save_weights(tmp_path / "a.safetensors", model, variables)
    assert differences(variables, load_model("resnet_mini", path).variables) == []


def test_torchvision_file_has_the_tensors_that_strict_loading_needs(tmp_path):
    meta = golden.load("torchvision-resnet18")["meta"]
    tensors = golden.state_dict(meta)
    loaded = load_model("resnet18", tensors)
    path = save_weights(tmp_path / "a.safetensors", loaded.model, loaded.variables, layout="timm")
    written = load_file(path)
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert written[name].dtype == tensor.dtype
        np.testing.assert_array_equal(written[name], tensor)


def shapes_written(tmp_path, name, layout, **fields):
    """What a file of the model would hold, without hundreds of megabytes of values."""
    model = create_model(name, **fields)
    zeros = {p: np.zeros(leaf.shape, np.float16) for p, leaf in variable_shapes(model).items()}
    tree = {"params": {}, "batch_stats": {}}
    for path, leaf in zeros.items():
        tree[path.partition("/")[0]][path.partition("/")[2]] = leaf
    file = save_weights(tmp_path / f"{name}.safetensors", model, tree, layout=layout)
    with safe_open(file, "numpy") as opened:
        return {key: list(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize(
    "fixture", [name for name in golden.names() if name.startswith("torchvision")]
)
def test_torchvision_file_has_every_name_and_shape_of_torchvision(tmp_path, fixture):
    meta = golden.load(fixture)["meta"]
    expected = {name: list(shape) for name, shape in golden.shapes(meta).items()}
    aux = {"aux_head": True} if any(name.startswith("AuxLogits") for name in expected) else {}
    assert shapes_written(tmp_path, meta["arch"], "torchvision", **aux) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TIMM if name != "source"])
def test_timm_file_has_every_name_and_shape_of_timm(tmp_path, name):
    assert shapes_written(tmp_path, name, "timm") == TIMM[name]


def test_file_says_classes_preprocessing_and_further_metadata(tmp_path):
    record = Preprocess(input_size=32, resize=40)
    path = save_weights(
        tmp_path / "a.safetensors",
        *mini(2),
        classes=("Ä", "b"),
        preprocess=record,
        metadata={"run": "flowers"},
    )
    notes = metadata(path)
    assert json.loads(notes["jtl.classes"]) == ["Ä", "b"]
    assert Preprocess.from_dict(json.loads(notes["jtl.preprocess"])) == record
    assert (notes["run"], notes["jtl.layout"]) == ("flowers", "jtl")
    assert json.loads(notes["jtl.fields"])["entry"] == "pooled"


def test_torch_layouts_bear_the_word_that_torch_loaders_look_for(tmp_path):
    path = save_weights(tmp_path / "a.safetensors", *tiny(), layout="torchvision")
    assert metadata(path)["format"] == "pt"


def test_every_tensor_begins_at_a_multiple_of_its_element(tmp_path):
    path = save_weights(tmp_path / "a.safetensors", *tiny(num_classes=3), layout="torchvision")
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    del header["__metadata__"]
    sizes = {"F32": 4, "I64": 8}
    starts = [(8 + size + e["data_offsets"][0]) % sizes[e["dtype"]] for e in header.values()]
    assert set(starts) == {0}


def test_existing_file_is_left_alone_unless_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, *mini())
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="exists"):
        save_weights(path, *mini(seed=1))
    assert path.read_bytes() == before
    save_weights(path, *mini(seed=1), overwrite=True)
    assert path.read_bytes() != before


class Unreadable:
    """A leaf that fails when its values are asked for, after the file was begun."""

    def __init__(self, leaf):
        self.shape, self.dtype, self.size = leaf.shape, leaf.dtype, leaf.size

    def __array__(self, dtype=None, copy=None):
        raise OSError(28, "No space left on device")


def test_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "a.safetensors"
    model, variables = mini()
    save_weights(path, model, variables)
    before = path.read_bytes()
    broken = map_with_path(
        lambda name, leaf: Unreadable(leaf) if name.endswith("head/bias") else leaf, variables
    )
    with pytest.raises(WeightsError, match=r"cannot be written: No space left"):
        save_weights(path, model, broken, overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="there is no folder"):
        save_weights(tmp_path / "absent" / "a.safetensors", *mini())


def test_name_with_another_ending_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"end in \.safetensors"):
        save_weights(tmp_path / "a.pth", *mini())


def test_every_leaf_that_is_not_the_models_is_listed(tmp_path):
    model, variables = mini()
    del variables["params"]["layer1"]["block0"]["bn1"]["scale"]
    variables["params"]["extra"] = np.zeros(3, np.float32)
    variables["params"]["head"]["bias"] = np.zeros(11, np.float32)
    variables["params"]["head"]["kernel"] = variables["params"]["head"]["kernel"].astype(int)
    with pytest.raises(WeightsError) as caught:
        save_weights(tmp_path / "a.safetensors", model, variables)
    text = str(caught.value)
    assert "in 4 places; nothing was saved" in text
    assert "params/layer1/block0/bn1/scale: missing" in text
    assert "params/extra: not of this model" in text
    assert "params/head/bias: has shape [11], the model's is [10]" in text
    assert "params/head/kernel: is int64" in text
    assert not list(tmp_path.iterdir())


def test_layout_whose_library_would_compute_something_else_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match=r"epsilon=0.001, where torchvision has 1e-05"):
        save_weights(tmp_path / "a.safetensors", *tiny(epsilon=1e-3), layout="torchvision")


def test_keras_network_has_no_place_in_torchs_layout(tmp_path):
    model = create_model("resnet50", variant="keras", **TINY)
    with pytest.raises(WeightsError, match="would compute something else"):
        save_weights(tmp_path / "a.safetensors", model, {"params": {}}, layout="timm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "torchvison"}, "did you mean 'torchvision'"),
        ({"layout": "keras"}, "cannot be saved"),
        ({"classes": ("a",)}, "1 classes are named; the model has 10"),
        ({"metadata": {"jtl.x": "1"}}, "do not begin with jtl"),
        ({"metadata": {"x": 1}}, "give text"),
    ],
)
def test_arguments_that_contradict_the_model_are_an_error(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        save_weights(tmp_path / "a.safetensors", *mini(), **options)


def test_jax_arrays_are_saved_as_numpy_arrays_are(tmp_path):
    model, variables = mini()
    there = {k: map_with_path(lambda _, leaf: jnp.asarray(leaf), v) for k, v in variables.items()}
    first = save_weights(tmp_path / "a.safetensors", model, variables)
    second = save_weights(tmp_path / "b.safetensors", model, there)
    assert first.read_bytes() == second.read_bytes()
    assert set(load_file(first)) == set(flatten(variables))
