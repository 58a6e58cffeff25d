"""Digests of functions and values: equal where these are, in every process, else different."""

import copy
import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jtl
from jtl import identity as module
from jtl.engine.optim import OptimizerOptions, make_optimizer
from jtl.identity import UnknownError, identity
from jtl.models.registry import create_model
from jtl.weights.preprocess import Preprocess

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.frozensets(plain, max_size=3)
    ),
    max_leaves=8,
)


def exact(value):
    """The value with its types, as Python finds `1`, `1.0` and `True` equal."""
    match value:
        case list() | tuple():
            return type(value).__name__, [exact(own) for own in value]
        case dict():
            return "dict", [(key, exact(own)) for key, own in value.items()]
        case frozenset():
            return "frozenset", sorted(map(repr, map(exact, value)))
        case _:
            return type(value).__name__, repr(value)


@given(values, values)
def test_values_have_one_identity_if_and_only_if_they_are_the_same(first, second):
    assert identity(first) == identity(copy.deepcopy(first))
    assert (identity(first) == identity(second)) == (exact(first) == exact(second))


def step(**changes):
    """A step of a small network, with one part of it changed."""
    options = {
        "name": "adamw", "rate": 1e-3, "smoothing": 0.1, "freeze": ["stem"], "classes": 3,
        "dropout": 0.0, "decay": 0.0, "l2_sp": 0.0, "mean": 0.5, "accumulate": 1, "ema": None,
        "weights": None, "start": 0.0, "prepared": True, "clip": None, "dtype": None,
        "rates": None, "groups": None, "batch_norm": None, "frozen_dropout": False,
        "global_batch_norm": True, "axis_name": None,
    } | changes  # fmt: skip
    model = create_model(
        "resnet_mini",
        num_classes=options["classes"],
        dropout_rate=options["dropout"],
        dtype=options["dtype"],
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, options["start"]), shapes["params"])
    rule = OptimizerOptions(
        name=options["name"],
        weight_decay=options["decay"],
        l2_sp=options["l2_sp"],
        clip_norm=options["clip"],
    )
    schedule = optax.cosine_decay_schedule(options["rate"], 100)
    rates = None if options["rates"] is None else jax.tree.map(lambda _: options["rates"], params)
    groups = None if options["groups"] is None else jax.tree.map(lambda _: "one", params)
    tx = jtl.partition_optimizer(
        make_optimizer(rule, schedule, multipliers=rates, groups=groups, reference=params),
        jtl.freeze_labels(params, options["freeze"], model.stages),
    )
    loss = jtl.losses.cross_entropy(label_smoothing=options["smoothing"])
    if options["weights"] is not None:
        loss = jtl.losses.weighted(loss, jnp.asarray(options["weights"]))
    record = Preprocess(input_size=8, resize=8, mean=(options["mean"],) * 3)
    from jtl.experiment.assemble import make_prepare

    made = jtl.make_train_step(
        model,
        tx,
        freeze=options["freeze"],
        loss=loss,
        prepare=make_prepare(record) if options["prepared"] else None,
        accumulate=options["accumulate"],
        ema_decay=options["ema"],
        batch_norm=options["batch_norm"],
        frozen_dropout=options["frozen_dropout"],
        global_batch_norm=options["global_batch_norm"],
    )
    return made if options["axis_name"] is None else made.bind(options["axis_name"])


CHANGES = {
    "rule": {"name": "lion"},
    "rate": {"rate": 2e-3},
    "loss": {"smoothing": 0.2},
    "class weights": {"weights": [1.0, 2.0, 3.0]},
    "other class weights": {"weights": [1.0, 2.0, 4.0]},
    "freeze": {"freeze": ["stem", "layer1"]},
    "classes": {"classes": 4},
    "dropout": {"dropout": 0.2},
    "decay": {"decay": 0.1},
    "L2-SP": {"l2_sp": 0.1},
    "L2-SP towards other values": {"l2_sp": 0.1, "start": 1.0},
    "preprocessing": {"mean": 0.4},
    "no preprocessing": {"prepared": False},
    "micro-batches": {"accumulate": 2},
    "running means": {"ema": 0.9},
    "clipping": {"clip": 1.0},
    "precision": {"dtype": jnp.bfloat16},
    "rates of layers": {"rates": 0.5},
    "groups": {"groups": True},
    "modes of BatchNorm": {"batch_norm": "train"},
    "modes of some BatchNorms": {"batch_norm": {"layer1/*": "train"}},
    "dropout where frozen": {"frozen_dropout": True},
    "own statistics": {"global_batch_norm": False},
    "a mapped axis": {"axis_name": "batch"},
}


def test_steps_have_one_identity_if_and_only_if_they_are_made_alike():
    found = {name: identity(step(**changes)) for name, changes in CHANGES.items()}
    assert len({identity(step()), *found.values()}) == len(CHANGES) + 1
    assert all(identity(step(**changes)) == found[name] for name, changes in CHANGES.items())


def test_every_field_of_a_step_is_part_of_its_identity():
    plain, touched = step(), set()
    for changes in CHANGES.values():
        changed = step(**changes)
        touched |= {
            field.name
            for field in dataclasses.fields(plain)
            if identity(getattr(plain, field.name)) != identity(getattr(changed, field.name))
        }
    assert touched == {field.name for field in dataclasses.fields(plain)}


def test_what_no_step_depends_on_does_not_change_it():
    assert identity(step(start=1.0)) == identity(step())


def test_another_process_finds_the_same_identity():
    program = "from tests.test_identity import step; from jtl.identity import identity\n"
    program += "print(identity(step(weights=[1.0, 2.0, 3.0]), frozenset(map(str, range(9)))))"
    mine = identity(step(weights=[1.0, 2.0, 3.0]), frozenset(map(str, range(9))))
    for seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == mine


def test_arrays_differ_by_value_shape_dtype_and_weakness():
    arrays = [
        np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32),
        np.ones(4, np.float32), jnp.zeros(4), jnp.zeros(()), jnp.asarray(0.0),
        jax.random.key(0), jax.random.key(1),
    ]  # fmt: skip
    assert identity(arrays[0]) == identity(jnp.zeros(4, jnp.float32))  # wherever it lies
    different = [own for place, own in enumerate(arrays) if place != 4]
    assert len({identity(own) for own in different}) == len(different)


def test_meshes_differ_by_devices_axes_and_specs():
    devices, mesh = np.array(jax.devices()), jax.sharding.Mesh
    spread = jax.sharding.PartitionSpec("a")
    meshes = [mesh(devices, ("a",)), mesh(devices[::-1], ("a",)), mesh(devices, ("b",)),
              mesh(devices.reshape(4, 2), ("a", "b"))]  # fmt: skip
    shardings = [
        jax.sharding.NamedSharding(meshes[0], spec)
        for spec in (jax.sharding.PartitionSpec(), spread)
    ]
    assert len({identity(own) for own in (*meshes, *shardings)}) == 6
    assert identity(shardings[1]) == identity(jax.sharding.NamedSharding(meshes[0], spread))


def test_what_holds_itself_has_an_identity():
    knot = [1]
    knot.append(knot)
    other = [2]
    other.append(other)
    again = copy.deepcopy(knot)
    assert identity(knot) == identity(again) != identity(other)


def test_sharing_is_not_part_of_it():
    one, two = [1, 2], [1, 2]
    assert identity([one, one]) == identity([one, two])


def own_loss(logits, batch):
    return jnp.sum(logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class OwnOptions:
    rate: float


class OwnNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


@functools.wraps(jtl.make_train_step)
def wrapped(*args):
    return own_loss(*args)


STRANGE = {
    "a function that says it were another": wrapped,
    "an object of C++": jax.sharding.SingleDeviceSharding(jax.devices()[0]),
    "a function": own_loss,
    "a partial": functools.partial(own_loss, batch=None),
    "a dataclass": OwnOptions(rate=0.1),
    "a network": OwnNet(),
    "a class": OwnNet,
    "an open file": sys.__stdout__,
    "objects": np.array([object()]),
    "a lock": object(),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_may_change_without_being_seen_has_no_identity(name):
    with pytest.raises(UnknownError):
        identity([STRANGE[name]])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package, whose files are as old as its installation."""
    root, record = tmp_path / "strides", tmp_path / "strides-1.0.dist-info"
    root.mkdir()
    record.mkdir()
    (root / "__init__.py").write_text("")
    (root / "code.py").write_text("x = 1")
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: strides\nVersion: 1.0\n")
    (record / "RECORD").write_text("")
    for path in (*root.iterdir(), record / "RECORD"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.syspath_prepend(tmp_path)
    return root


def test_a_package_is_told_by_its_version_and_by_what_was_edited_since(package):
    name, number, listed, edited = module._package("strides")
    assert (name, number, edited) == ("strides", "1.0", [])
    (package / "code.py").write_text("x = 2")
    (edited,) = module._package("strides")[3]
    assert edited[:2] == ("code.py", 5)
    record = package.parent / "strides-1.0.dist-info" / "RECORD"
    record.write_text("strides/code.py,sha256=another,5")  # installed anew, of the same version
    assert module._package("strides")[2] != listed
    record.unlink()
    assert [own[0] for own in module._package("strides")[3]] == ["__init__.py", "code.py"]


def test_code_that_changed_since_it_was_imported_has_no_identity(monkeypatch):
    monkeypatch.setattr(module, "_IMPORTED", 0)
    module._code.cache_clear()
    with pytest.raises(UnknownError, match="changed since"):
        identity(1)
    monkeypatch.undo()
    identity(1)


def test_a_package_that_is_not_there_is_named():
    assert module._package("no_such_package") == ("no_such_package",)
