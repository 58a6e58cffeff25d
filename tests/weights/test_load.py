import json
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jtl.errors import ConfigError, WeightsError
from jtl.models.registry import create_model
from jtl.tree import differences, flatten, nbytes
from jtl.weights.load import load_model
from jtl.weights.preprocess import CAFFE, SYMMETRIC, Preprocess
from jtl.weights.save import save_weights
from tests import golden
from tests.weights.drawn import TINY, blank_tensors, drawn_variables, mini, tiny

LETTERS = tuple("abcdefghij")


@pytest.fixture
def saved(tmp_path):
    """A narrow ResNet-18's file in torchvision's layout, and the variables in it."""
    model, variables = tiny()
    path = save_weights(
        tmp_path / "tiny.safetensors", model, variables, layout="torchvision", classes=LETTERS
    )
    return path, variables


def rewrite(path, **tensors):
    """The same file with some tensors replaced, and those given as None left out."""
    merged = {**load_file(path), **tensors}
    save_file({name: value for name, value in merged.items() if value is not None}, path)


def load_tiny(path, **options):
    return load_model("resnet18", path, **{**TINY, **options})


def head(pretrained):
    return pretrained.variables["params"]["head"]


def backbone(variables):
    return {path: leaf for path, leaf in flatten(variables).items() if "/head/" not in path}


def test_load_gives_the_bits_of_the_file_when_all_fits(saved):
    path, variables = saved
    loaded = load_tiny(path)
    assert differences(variables, loaded.variables) == []
    assert loaded.model.num_classes == 10
    assert loaded.classes == LETTERS
    assert loaded.ledger.layout == "torchvision"
    assert set(loaded.ledger.sources) == set(load_file(path))
    assert set(loaded.ledger.destinations) == set(flatten(variables))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded.variables))


def test_load_compiles_nothing_when_the_file_provides_every_tensor(saved):
    compiled = []
    load_tiny(saved[0])

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.clear_caches()
        load_tiny(saved[0])
        assert compiled == []
        load_tiny(saved[0], num_classes=3, rng=0)
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_load_holds_one_copy_beside_the_mapped_file(tmp_path):
    tensors = blank_tensors("resnet18", "torchvision")
    path = tmp_path / "resnet18.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    del tensors
    load_model("resnet18", path)
    tracemalloc.start()
    loaded = load_model("resnet18", path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The mapped file itself is the other copy; a tenth is left for tables and names.
    assert peak < 1.1 * nbytes(loaded.variables)


def test_head_is_kept_when_num_classes_is_the_files(saved):
    path, variables = saved
    loaded = load_tiny(path, num_classes=10)
    assert differences(variables, loaded.variables) == []
    assert loaded.ledger.counts["loaded"] == len(flatten(variables))


@pytest.mark.parametrize(("count", "mode"), [(7, "auto"), (10, "init"), (None, "init")])
def test_head_alone_is_drawn_anew_when_asked_or_of_another_width(saved, count, mode):
    path, variables = saved
    loaded = load_tiny(path, num_classes=count, head=mode, rng=0)
    width = count or 10
    assert head(loaded)["kernel"].shape == (16, width)
    assert not np.array_equal(head(loaded)["kernel"], variables["params"]["head"]["kernel"])
    assert differences(backbone(variables), backbone(loaded.variables)) == []
    row = loaded.ledger.destinations["params/head/kernel"]
    assert (row.status, row.source) == ("initialised", "fc.weight")
    assert row.reason == ("asked for" if mode == "init" else "10 classes in the file, 7 wanted")


def test_head_is_the_same_for_the_same_seed_alone(saved):
    kernels = [
        np.asarray(head(load_tiny(saved[0], num_classes=5, rng=rng))["kernel"])
        for rng in (3, jax.random.key(3), 4)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert np.std(kernels[0]) > 0


def test_head_that_must_be_drawn_without_rng_is_an_error(saved):
    with pytest.raises(ConfigError, match=r"10 classes in the file, 7 wanted.*pass rng="):
        load_tiny(saved[0], num_classes=7)


def test_match_keeps_the_rows_of_classes_with_the_same_name(saved):
    path, variables = saved
    wanted = ("c", "new", "a")
    loaded = load_tiny(path, head="match", classes=wanted, rng=0)
    kernel, source = head(loaded)["kernel"], variables["params"]["head"]["kernel"]
    assert loaded.classes == wanted
    assert loaded.model.num_classes == 3
    np.testing.assert_array_equal(kernel[:, 0], source[:, 2])
    np.testing.assert_array_equal(kernel[:, 2], source[:, 0])
    assert not np.isin(kernel[:, 1], source).any()
    np.testing.assert_array_equal(
        head(loaded)["bias"][np.array([0, 2])], variables["params"]["head"]["bias"][[2, 0]]
    )
    row = loaded.ledger.destinations["params/head/kernel"]
    assert row.status == "matched"
    assert row.reason == "2 of 3 classes kept by name; drawn at random: new"


def test_match_needs_no_rng_when_every_class_is_known(saved):
    path, variables = saved
    loaded = load_tiny(path, head="match", classes=LETTERS[::-1])
    np.testing.assert_array_equal(head(loaded)["bias"], variables["params"]["head"]["bias"][::-1])


def test_file_without_head_needs_the_number_of_classes(saved):
    path, variables = saved
    rewrite(path, **{"fc.weight": None, "fc.bias": None})
    with pytest.raises(ConfigError, match="has no head; say num_classes"):
        load_tiny(path)
    loaded = load_tiny(path, num_classes=4, rng=0)
    assert head(loaded)["kernel"].shape == (16, 4)
    assert loaded.ledger.destinations["params/head/kernel"].source is None
    assert differences(backbone(variables), backbone(loaded.variables)) == []


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_parameters_keep_the_files_dtype_when_none_is_asked(tmp_path, dtype):
    model, variables = mini(dtype=dtype)
    path = save_weights(tmp_path / "mini.safetensors", model, variables)
    loaded = load_model("resnet_mini", path)
    assert differences(variables, loaded.variables) == []
    assert loaded.model.param_dtype == dtype
    fresh = load_model("resnet_mini", path, num_classes=3, rng=0)
    assert head(fresh)["kernel"].dtype == dtype


def test_parameters_take_the_dtype_that_is_asked(saved):
    loaded = load_tiny(saved[0], param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.variables)} == {jnp.dtype("bfloat16")}
    assert loaded.model.param_dtype == jnp.bfloat16
    row = loaded.ledger.sources["fc.weight"]
    assert (row.source_dtype, row.dtype) == ("float32", "bfloat16")


def test_float64_becomes_float32_with_a_line_that_says_so(tmp_path):
    model, variables = mini(dtype=np.float64)
    path = save_weights(tmp_path / "mini.safetensors", model, variables)
    loaded = load_model("resnet_mini", path)
    row = loaded.ledger.destinations["params/head/kernel"]
    assert (row.source_dtype, row.dtype) == ("float64", "float32")
    assert head(loaded)["kernel"].dtype == np.float32


def test_float64_stays_with_x64(tmp_path, x64):
    model, variables = mini(dtype=np.float64)
    path = save_weights(tmp_path / "mini.safetensors", model, variables)
    loaded = load_model("resnet_mini", path, param_dtype=np.float64)
    assert differences(variables, loaded.variables) == []


@pytest.mark.parametrize("dtype", [np.int8, np.float64, bool])
def test_param_dtype_that_parameters_cannot_have_is_an_error(saved, dtype):
    with pytest.raises(ConfigError, match=r"param_dtype=(int8|float64|bool)"):
        load_tiny(saved[0], param_dtype=dtype)


def test_values_beyond_a_narrower_dtype_are_an_error(saved):
    bias = load_file(saved[0])["fc.bias"]
    rewrite(saved[0], **{"fc.bias": bias * 0 + 1e5})
    with pytest.raises(WeightsError, match=r"fc.bias: has values beyond the range of float16"):
        load_tiny(saved[0], param_dtype=np.float16)


def test_negative_variance_is_an_error_that_names_the_tensor(saved):
    var = load_file(saved[0])["layer1.0.bn1.running_var"]
    rewrite(saved[0], **{"layer1.0.bn1.running_var": -var})
    with pytest.raises(WeightsError, match=r"layer1.0.bn1.running_var: is the running variance"):
        load_tiny(saved[0])


def test_nan_is_an_error_that_names_the_tensor(saved):
    bias = load_file(saved[0])["fc.bias"].copy()
    bias[3] = np.nan
    rewrite(saved[0], **{"fc.bias": bias})
    with pytest.raises(WeightsError, match=r"fc\.bias"):
        load_tiny(saved[0])


def test_every_mismatch_is_listed_when_tensors_do_not_fit(saved):
    tensors = load_file(saved[0])
    rewrite(
        saved[0],
        **{
            "layer1.0.conv1.weight": tensors["layer1.0.conv1.weight"].transpose(2, 3, 1, 0).copy(),
            "layer2.0.bn1.bias": None,
            "layer2.0.bn1.bais": tensors["layer2.0.bn1.bias"],
            "fc.weight": tensors["fc.weight"].astype(np.int32),
        },
    )
    with pytest.raises(WeightsError) as caught:
        load_tiny(saved[0])
    text = str(caught.value)
    assert "4 mismatches" in text
    assert "in another layout" in text
    assert "layer2.0.bn1.bias is missing (nearest: layer2.0.bn1.bais" in text
    assert "layer2.0.bn1.bais: no leaf takes this tensor" in text
    assert "fc.weight: is int32" in text


def test_wrong_architecture_says_what_the_file_is(tmp_path):
    path = save_weights(tmp_path / "mini.safetensors", *mini())
    with pytest.raises(WeightsError, match=r"holds resnet_mini \(jtl layout, 10 classes\), not"):
        load_model("resnet18", path)


def test_file_of_no_network_says_so(tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({"odd.weight": np.ones((3, 3), np.float32)}, path)
    with pytest.raises(WeightsError, match="does not hold resnet18 in any layout that is known"):
        load_model("resnet18", path)


def test_missing_file_is_an_error_and_not_a_name_of_the_catalogue(tmp_path):
    with pytest.raises(WeightsError, match="absent"):
        load_model("resnet_mini", str(tmp_path / "absent.safetensors"))


def test_unknown_name_of_weights_names_the_nearest():
    with pytest.raises(WeightsError, match=r"resnet50\.tv_in1k_v1"):
        load_model("resnet50", "resnet50.tv_in1k_v")


def test_pytree_is_copied_and_not_aliased():
    _, variables = mini()
    loaded = load_model("resnet_mini", variables)
    assert differences(variables, loaded.variables) == []
    variables["params"]["head"]["kernel"][:] = 0
    assert np.asarray(head(loaded)["kernel"]).any()


def test_prefixes_are_noted_in_the_ledger(tmp_path, saved):
    path = tmp_path / "wrapped.safetensors"
    save_file({f"module.{name}": array for name, array in load_file(saved[0]).items()}, path)
    loaded = load_tiny(path)
    assert differences(saved[1], loaded.variables) == []
    assert any("module" in note for note in loaded.ledger.notes)


def test_random_model_says_that_it_is_random():
    small = {"stage_sizes": (1,), "widths": (8,), "num_classes": 2}
    loaded = load_model("resnet_mini", classes=("a", "b"), rng=0, dropout_rate=0.5, **small)
    assert loaded.ledger.counts == {"initialised": len(flatten(loaded.variables))}
    assert loaded.model.dropout_rate == 0.5
    assert loaded.classes == ("a", "b")
    assert loaded.preprocess.input_size == 32
    again = load_model("resnet_mini", rng=jax.random.key(0), **small)
    assert differences(loaded.variables, again.variables) == []


def test_random_model_without_rng_is_an_error():
    with pytest.raises(ConfigError, match="pass rng="):
        load_model("resnet_mini")


@pytest.mark.parametrize("mode", ["keep", "match"])
def test_random_model_has_no_head_to_keep(mode):
    with pytest.raises(ConfigError, match=f"head='{mode}' needs weights"):
        load_model("resnet_mini", rng=0, head=mode)


def test_fields_reach_the_model(saved):
    loaded = load_tiny(saved[0], drop_path_rate=0.1, remat=["layer1"])
    assert loaded.model.drop_path_rate == 0.1
    assert loaded.model.remat == ("layer1",)


def test_unknown_field_is_an_error_with_the_nearest(saved):
    with pytest.raises(ConfigError, match="drop_path_rate"):
        load_tiny(saved[0], droppath_rate=0.1)


def test_model_with_other_fields_loads_when_they_are_given_again(tmp_path):
    fields = {"widths": (8, 16, 24), "epsilon": 1e-3}
    model, variables = mini(**fields)
    path = save_weights(tmp_path / "other.safetensors", model, variables)
    loaded = load_model("resnet_mini", path, **fields)
    assert differences(variables, loaded.variables) == []


def test_model_that_would_compute_something_else_is_an_error(tmp_path):
    model, variables = mini(epsilon=1e-3)
    path = save_weights(tmp_path / "other.safetensors", model, variables)
    with pytest.raises(WeightsError, match=r"epsilon=1e-05, and the file was saved with 0.001"):
        load_model("resnet_mini", path)


def test_preprocess_comes_from_the_file_when_it_says_so(tmp_path):
    record = Preprocess(mean=(0.1, 0.2, 0.3), input_size=48, resize=48)
    path = save_weights(tmp_path / "mini.safetensors", *mini(), preprocess=record)
    assert load_model("resnet_mini", path).preprocess == record
    other = Preprocess(input_size=32, resize=32)
    assert load_model("resnet_mini", path, preprocess=other).preprocess == other


def test_preprocess_comes_from_timms_config_beside_the_file(saved):
    config = {"pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0, 0, 0], "std": [1, 1, 1]}}
    (saved[0].parent / "config.json").write_text(json.dumps(config))
    loaded = load_tiny(saved[0])
    assert loaded.preprocess.input_size == 64
    assert any("config.json beside the file" in note for note in loaded.ledger.notes)


def test_preprocess_is_the_layouts_when_nothing_says_it(saved):
    loaded = load_tiny(saved[0])
    assert loaded.preprocess == Preprocess()
    assert any("as the file does not say" in note for note in loaded.ledger.notes)


@pytest.mark.parametrize("fixture", ["torchvision-resnet18"])
def test_released_names_load_bit_for_bit(tmp_path, fixture):
    meta = golden.load(fixture)["meta"]
    tensors = golden.state_dict(meta)
    path = tmp_path / "peer.safetensors"
    save_file(tensors, path)
    loaded = load_model(meta["arch"], path)
    assert set(loaded.ledger.sources) == set(tensors)
    kernel = loaded.variables["params"]["layer2"]["block0"]["downsample_conv"]["kernel"]
    np.testing.assert_array_equal(
        kernel, tensors["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    )
    assert loaded.preprocess == Preprocess()


def test_keras_file_selects_the_keras_variant():
    tensors = blank_tensors("resnet50", "keras", variant="keras", **TINY)
    loaded = load_model("resnet50", tensors, **TINY)
    assert loaded.model.stride_in == "conv1"
    assert loaded.preprocess == Preprocess(**CAFFE)
    assert loaded.ledger.layout == "keras"


def test_keras_variant_survives_our_own_layout(tmp_path):
    model, variables = mini(block="bottleneck", stride_in="conv1", momentum=0.99)
    fields = {"block": "bottleneck", "stride_in": "conv1", "momentum": 0.99}
    path = save_weights(tmp_path / "v1.safetensors", model, variables)
    with pytest.raises(WeightsError, match="stride_in='conv2', and the file was saved with"):
        load_model("resnet_mini", path, block="bottleneck")
    assert load_model("resnet_mini", path, **fields).model == model


@pytest.mark.slow
@pytest.mark.parametrize("aux", [False, True])
def test_inceptions_auxiliary_head_is_left_or_drawn_for_new_classes(aux):
    tensors = blank_tensors("inception_v3", "torchvision", aux_head=True)
    loaded = load_model("inception_v3", tensors, num_classes=5, rng=0, aux_head=aux)
    row = loaded.ledger.sources["AuxLogits.fc.weight"]
    assert row.status == ("initialised" if aux else "unused")
    assert loaded.preprocess == Preprocess(**SYMMETRIC, input_size=299, resize=342)
    if aux:
        kernel = np.asarray(loaded.variables["params"]["aux"]["fc"]["kernel"])
        assert kernel.shape == (768, 5)
        assert 0 < kernel.std() < 0.01
        conv = loaded.variables["params"]["aux"]["conv0"]["conv"]["kernel"]
        assert (np.asarray(conv) == 1).all()


def test_vgg_from_torch_is_flattened_as_ours():
    fields = {"hidden": 6, "widths": (4,) * 5}
    variables = drawn_variables(create_model("vgg11", **fields))
    kernel = variables["params"]["classifier"]["fc1"]["kernel"].reshape(7, 7, 4, 6)
    tensors = blank_tensors("vgg11", "torchvision", **fields)
    # torch flattens 4 channels of 7 by 7, we 7 by 7 pixels of 4 channels.
    torch = kernel.transpose(3, 2, 0, 1).reshape(6, 4 * 49)
    np.testing.assert_array_equal(torch[:, 3 * 49 + 2 * 7 + 5], kernel[2, 5, 3])
    tensors["classifier.0.weight"] = np.ascontiguousarray(torch)
    loaded = load_model("vgg11", tensors, **fields)
    np.testing.assert_array_equal(
        loaded.variables["params"]["classifier"]["fc1"]["kernel"], kernel.reshape(-1, 6)
    )
    assert "CHW→HWC" in loaded.ledger.sources["classifier.0.weight"].transform
