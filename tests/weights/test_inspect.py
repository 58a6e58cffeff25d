import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jtl.errors import WeightsError
from jtl.weights.inspect import exact_architecture, identify_file, inspect_weights
from jtl.weights.preprocess import Preprocess
from jtl.weights.readers import read_weights
from jtl.weights.save import save_weights
from tests.weights.drawn import TINY, blank_tensors, mini, tiny


@pytest.fixture
def saved(tmp_path):
    model, variables = mini()
    return save_weights(
        tmp_path / "mini.safetensors",
        model,
        variables,
        classes=tuple("abcdefghij"),
        preprocess=Preprocess(input_size=32, resize=32),
    )


def test_file_is_named_and_accounted_for_when_it_fits(saved):
    found = inspect_weights(saved)
    assert found.verdict == "resnet_mini (jtl layout, 10 classes)"
    assert (found.format, found.tensors) == ("safetensors", len(load_file(saved)))
    assert found.parameters == sum(array.size for array in load_file(saved).values())
    assert set(found.ledger.sources) == set(load_file(saved))
    assert found.ledger.counts == {"loaded": found.tensors}
    assert any("classes: a, b" in note for note in found.ledger.notes)
    assert any("shorter side to 32 px" in note for note in found.ledger.notes)


def test_named_model_alone_is_accounted_for(saved):
    assert inspect_weights(saved, "resnet_mini").ledger.model == "resnet_mini"
    with pytest.raises(WeightsError, match="holds resnet_mini"):
        inspect_weights(saved, "resnet18")


@pytest.mark.slow
def test_closest_network_is_named_when_none_fits(saved):
    tensors = load_file(saved)
    tensors["odd"] = tensors.pop("params/head/bias")
    save_file(tensors, saved)
    found = inspect_weights(saved)
    assert found.ledger is None
    assert "no architecture fits exactly; it comes closest to resnet_mini" in found.verdict
    assert (found.matches[0].missing, found.matches[0].extra) == (("params/head/bias",), ("odd",))
    with pytest.raises(WeightsError, match="comes closest to resnet_mini"):
        exact_architecture(read_weights(saved))


def test_file_without_any_known_tensor_says_so(tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({"odd.weight": np.ones((3, 3), np.float32)}, path)
    assert "no architecture that jtl knows has any of its tensors (odd.weight" in (
        inspect_weights(path).verdict
    )
    assert identify_file(read_weights(path)) == ()


def test_headless_file_is_accounted_for(tmp_path):
    path = save_weights(tmp_path / "tiny.safetensors", *tiny(), layout="torchvision")
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("fc.")}, path)
    found = inspect_weights(path, "resnet18", **TINY)
    assert found.verdict == "resnet18 (torchvision layout, no head)"
    assert found.ledger.destinations["params/head/kernel"].reason == "the file has no head"


def test_nan_stops_the_inspection(saved):
    tensors = load_file(saved)
    tensors["params/head/bias"] = tensors["params/head/bias"] * np.nan
    save_file(tensors, saved)
    with pytest.raises(WeightsError, match="params/head/bias"):
        inspect_weights(saved)


@pytest.mark.slow
def test_keras_variant_of_an_architecture_is_named():
    found = inspect_weights(blank_tensors("resnet50", "keras", variant="keras"))
    assert found.verdict == "resnet50 (keras layout, 1000 classes)"
    ours = inspect_weights(blank_tensors("resnet50", "jtl", variant="keras"))
    assert ours.verdict == "resnet50 of variant keras (jtl layout, 1000 classes)"


@pytest.mark.slow
def test_auxiliary_head_is_part_of_an_inspected_inception():
    found = inspect_weights(blank_tensors("inception_v3", "torchvision", aux_head=True))
    assert found.ledger.sources["AuxLogits.fc.weight"].status == "loaded"
