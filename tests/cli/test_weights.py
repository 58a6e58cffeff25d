import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jtl.cli.weights import convert, inspect
from jtl.errors import WeightsError
from jtl.tree import differences
from jtl.weights.ledger import Ledger
from jtl.weights.load import load_model
from jtl.weights.preprocess import Preprocess
from jtl.weights.save import save_weights
from tests.weights.drawn import mini


@pytest.fixture
def saved(tmp_path):
    model, variables = mini()
    path = save_weights(
        tmp_path / "mini.safetensors",
        model,
        variables,
        classes=tuple("abcdefghij"),
        preprocess=Preprocess(input_size=32, resize=33),
    )
    return path, variables


def test_inspect_prints_every_tensor_with_its_leaf(saved, capsys):
    inspect(str(saved[0]))
    text = capsys.readouterr().out
    assert "resnet_mini (jtl layout, 10 classes)" in text
    assert "shorter side to 33 px" in text
    lines = text.splitlines()
    for name in load_file(saved[0]):
        assert any(line.startswith(name) and line.split()[1] == name for line in lines)
    assert "\x1b" not in text


def test_inspect_prints_a_ledger_as_json(saved, capsys):
    inspect(str(saved[0]), model="resnet_mini", json=True)
    ledger = Ledger.from_json(capsys.readouterr().out)
    assert set(ledger.sources) == set(load_file(saved[0]))


@pytest.mark.slow
def test_inspect_names_what_comes_closest(saved, capsys):
    tensors = load_file(saved[0])
    tensors["odd"] = tensors.pop("params/head/bias")
    save_file(tensors, saved[0])
    inspect(str(saved[0]))
    text = capsys.readouterr().out
    assert "it comes closest to resnet_mini" in text
    assert "missing: params/head/bias" in text
    assert "extra: odd" in text
    with pytest.raises(WeightsError, match="comes closest"):
        inspect(str(saved[0]), json=True)


def test_convert_keeps_values_classes_and_preprocessing(saved, tmp_path, capsys):
    source = tmp_path / "source.npz"
    np.savez(source, **load_file(saved[0]))
    target = tmp_path / "target.safetensors"
    convert(str(source), target, model="resnet_mini")
    loaded = load_model("resnet_mini", target)
    assert differences(saved[1], loaded.variables) == []
    again = tmp_path / "again.safetensors"
    convert(str(saved[0]), again)
    loaded = load_model("resnet_mini", again)
    assert loaded.classes == tuple("abcdefghij")
    assert loaded.preprocess == Preprocess(input_size=32, resize=33)
    assert f"{again}: saved in the jtl layout" in capsys.readouterr().out


def test_convert_does_not_narrow_float64(tmp_path):
    model, variables = mini(dtype=np.float64)
    source = save_weights(tmp_path / "source.safetensors", model, variables)
    target = tmp_path / "target.safetensors"
    convert(str(source), target)
    assert differences(load_file(source), load_file(target)) == []


def test_convert_leaves_an_existing_target_alone(saved, tmp_path):
    target = tmp_path / "target.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(WeightsError, match="exists"):
        convert(str(saved[0]), target)
    assert target.read_bytes() == b"mine"
    convert(str(saved[0]), target, overwrite=True)
    assert load_file(target)
