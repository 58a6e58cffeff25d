"""Shapes of networks that are kept: as they were traced, and traced anew where they are not."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from jtl.models.registry import create_model
from jtl.models.resnet import ResNet
from jtl.weights.layouts import shapes
from jtl.weights.layouts.shapes import variable_shapes


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shapes"


@pytest.fixture
def traced(monkeypatch):
    """The networks that were traced."""
    found, trace = [], shapes._traced
    monkeypatch.setattr(shapes, "_traced", lambda model: found.append(model) or trace(model))
    return found


@pytest.mark.parametrize("name", ["resnet18", "resnet50v2", "vgg11_bn", "inception_v3"])
def test_kept_shapes_are_those_of_the_network(name, traced):
    model = create_model(name, num_classes=7, param_dtype=jnp.bfloat16)
    first, second = variable_shapes(model), variable_shapes(model)
    assert len(traced) == 1
    assert list(second) == list(first) == list(shapes._traced(model))
    assert all(second[path] == leaf and second[path].dtype == leaf.dtype
               for path, leaf in shapes._traced(model).items())  # fmt: skip


def test_networks_of_other_fields_have_shapes_of_their_own(traced):
    for fields in ({}, {"num_classes": 5}, {"widths": (8, 8, 8)}):
        variable_shapes(create_model("resnet_mini", **fields))
    with jax.enable_x64(True):
        variable_shapes(create_model("resnet_mini"))
    assert len(traced) == 4


@pytest.mark.parametrize("damage", ["", "{", '{"digest": null}', "[1]"])
def test_damaged_shapes_are_traced_anew(damage, folder, traced):
    model = create_model("resnet_mini")
    first = variable_shapes(model)
    (path,) = folder.iterdir()
    path.write_text(damage)
    assert variable_shapes(model) == first
    assert variable_shapes(model) == first
    assert len(traced) == 2


def test_a_changed_number_is_found(folder, traced):
    model = create_model("resnet_mini")
    first = variable_shapes(model)
    (path,) = folder.iterdir()
    record = json.loads(path.read_text())
    next(iter(record["leaves"].values()))[0][0] += 1
    path.write_text(json.dumps(record))
    assert variable_shapes(model) == first
    assert len(traced) == 2


def create_fields(model):
    return {field.name for field in dataclasses.fields(model)} - {"parent", "name"}


class Own(ResNet):
    """A network of the caller's own, whose code may change."""


def test_a_network_of_the_callers_own_is_traced_each_time(folder, traced):
    model = create_model("resnet_mini")
    own = Own(**{name: getattr(model, name) for name in create_fields(model)})
    assert variable_shapes(own) == variable_shapes(own)
    assert len(traced) == 2
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_costs_the_tracing_alone(folder, traced):
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file")
    model = create_model("resnet_mini")
    assert variable_shapes(model) == variable_shapes(model)
    assert len(traced) == 2
