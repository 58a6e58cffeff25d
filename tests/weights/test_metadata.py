import json

import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.models.registry import create_model
from jtl.weights.metadata import (
    CLASSES_KEY,
    FIELDS_KEY,
    PREPROCESS_KEY,
    choose_preprocess,
    field_differences,
    file_classes,
    file_preprocess,
    model_fields,
)
from jtl.weights.preprocess import Preprocess
from jtl.weights.readers import WeightFile

RECORD = Preprocess(input_size=48, resize=50)


def file(path="a.safetensors", **metadata):
    keys = {"classes": CLASSES_KEY, "preprocess": PREPROCESS_KEY, "fields": FIELDS_KEY}
    return WeightFile(
        path=str(path),
        format="safetensors",
        tensors={"a": np.zeros(1, np.float32)},
        metadata={keys[name]: text for name, text in metadata.items()},
    )


def choose(given, released=None):
    return choose_preprocess(
        given, released, layout="torchvision", architecture="resnet18", input_size=224
    )[0]


def test_a_file_that_says_nothing_gives_nothing():
    assert file_classes(file(), 3) is None
    assert file_preprocess(file()) is None
    assert field_differences(file(), create_model("resnet_mini")) == ()


def test_classes_are_read_as_they_were_named():
    assert file_classes(file(classes='["Ä", "b"]'), 2) == ("Ä", "b")
    assert file_classes(file(classes='["a"]'), None) == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["a"]', "names 1 classes, its head has 2"),
        ('{"a": 1}', "no list of names"),
        ("[1, 2]", "no list of names"),
        ("[", "no valid JSON"),
        ("[" * 10**5, "no valid JSON"),
    ],
)
def test_classes_that_cannot_be_right_are_an_error_that_names_the_file(text, message):
    with pytest.raises(WeightsError, match=message) as caught:
        file_classes(file(classes=text), 2)
    assert str(caught.value).startswith("a.safetensors")


@pytest.mark.parametrize("text", ["[]", "{", '{"mean": 3}', '{"meen": [1, 2, 3]}'])
def test_preprocessing_that_cannot_be_used_is_an_error_that_names_the_file(text):
    with pytest.raises(WeightsError, match=r"^a\.safetensors: .*jtl\.preprocess"):
        file_preprocess(file(preprocess=text))


def test_the_file_comes_before_the_catalogue_and_the_catalogue_before_the_folder(tmp_path):
    beside = tmp_path / "a.safetensors"
    beside.write_bytes(b"")
    config = {"pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0, 0, 0], "std": [1, 1, 1]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = json.dumps(RECORD.to_dict())
    released = {"input_size": 160, "resize": 160}
    assert choose(file(beside, preprocess=own), released) == RECORD
    assert choose(file(beside), released).input_size == 160
    assert choose(file(beside)).input_size == 64
    assert choose(file()) == Preprocess()


@pytest.mark.parametrize("text", ["{}", "[]", '{"architectures": ["x"]}'])
def test_another_librarys_config_beside_the_file_is_left_alone(tmp_path, text):
    (tmp_path / "a.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(text)
    assert choose(file(tmp_path / "a.safetensors")) == Preprocess()


def test_fields_differ_only_where_they_change_what_is_computed():
    model = create_model("resnet_mini")
    fields = json.dumps(model_fields(model))
    free = create_model("resnet_mini", num_classes=3, dropout_rate=0.5, remat=("layer1",))
    assert field_differences(file(fields=fields), free) == ()
    other = create_model("resnet_mini", epsilon=0.1)
    assert field_differences(file(fields=fields), other) == (
        "epsilon=0.1, and the file was saved with 1e-05",
    )


def test_a_field_that_is_younger_than_the_file_had_its_default():
    model = create_model("resnet_mini")
    fields = model_fields(model)
    del fields["epsilon"]
    assert field_differences(file(fields=json.dumps(fields)), model) == ()
    other = create_model("resnet_mini", epsilon=0.1)
    assert len(field_differences(file(fields=json.dumps(fields)), other)) == 1


def test_fields_that_are_no_record_are_an_error():
    with pytest.raises(WeightsError, match="no record"):
        field_differences(file(fields="[]"), create_model("resnet_mini"))
