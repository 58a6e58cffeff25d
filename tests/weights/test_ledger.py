import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from jtl.errors import WeightsError
from jtl.weights.layouts.transform import (
    OI_TO_IO,
    OIHW_TO_HWIO,
    SAME,
    Entry,
    flatten_chw_to_hwc,
)
from jtl.weights.ledger import Ledger, Row, is_real_float, random_rows, reconcile, transformed_shape

F32 = np.dtype("float32")


def spec(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


ENTRIES = (
    Entry(source="conv1.weight", destination="params/stem/conv/kernel", transform=OIHW_TO_HWIO),
    Entry(source="bn1.weight", destination="params/stem/bn/scale", transform=SAME),
    Entry(source="fc.weight", destination="params/head/kernel", transform=OI_TO_IO),
)
LEAVES = {
    "params/stem/conv/kernel": spec(7, 7, 3, 64),
    "params/stem/bn/scale": spec(64),
    "params/head/kernel": spec(64, 1000),
}
TENSORS = {
    "conv1.weight": spec(64, 3, 7, 7),
    "bn1.weight": spec(64),
    "bn1.num_batches_tracked": spec(dtype=np.dtype("int64")),
    "fc.weight": spec(1000, 64),
}
IGNORED = {"*num_batches_tracked": "counts updates"}


def pair(entries=ENTRIES, tensors=TENSORS, leaves=LEAVES, replaced=None):
    return reconcile(
        entries, tensors, leaves, ignored=IGNORED, replaced=replaced or {}, where="a.pth as net"
    )


def ledger(rows):
    return Ledger(path="a.pth", format="torch", model="net", layout="torchvision", rows=rows)


def mismatches(**given):
    with pytest.raises(WeightsError) as caught:
        pair(**given)
    return str(caught.value)


def test_every_tensor_and_every_leaf_has_one_row_when_all_fits():
    book = ledger(pair())
    assert set(book.sources) == set(TENSORS)
    assert set(book.destinations) == set(LEAVES)
    assert book.counts == {"loaded": 3, "unused": 1}
    row = book.sources["conv1.weight"]
    assert row.destination == "params/stem/conv/kernel"
    assert (row.source_shape, row.shape) == ((64, 3, 7, 7), (7, 7, 3, 64))
    assert (row.transform, row.source_dtype, row.dtype) == ("OIHW→HWIO", "float32", "float32")
    assert book.sources["bn1.num_batches_tracked"].reason == "counts updates"


def test_reconcile_lists_every_mismatch_at_once_with_nearest_names():
    tensors = {
        "conv1.weight": spec(64, 3, 3, 3),
        "bn1.weigth": spec(64),
        "fc.weight": spec(1000, 64, dtype=np.dtype("int8")),
        "extra.thing": spec(5),
    }
    text = mismatches(tensors=tensors)
    assert "a.pth as net: 5 mismatches; nothing was loaded" in text
    assert "conv1.weight: [64, 3, 3, 3] becomes [3, 3, 3, 64] by OIHW→HWIO, but" in text
    assert "its tensor bn1.weight is missing (nearest: bn1.weigth" in text
    assert "bn1.weigth: no leaf takes this tensor (nearest: bn1.weight)" in text
    assert "fc.weight: is int8" in text
    assert "extra.thing: no leaf takes this tensor" in text


def test_reconcile_says_when_a_tensor_is_in_the_models_order_already():
    text = mismatches(tensors={**TENSORS, "conv1.weight": spec(7, 7, 3, 64)})
    assert "has that shape already" in text


def test_reconcile_says_when_axes_are_those_of_another_layout():
    text = mismatches(tensors={**TENSORS, "conv1.weight": spec(64, 7, 7, 3)})
    assert "the same axes in another order" in text


def test_reconcile_names_a_leaf_that_the_table_forgets():
    text = mismatches(entries=ENTRIES[1:])
    assert "params/stem/conv/kernel: the key table has no tensor for this leaf" in text
    assert "conv1.weight: no leaf takes this tensor" in text


def test_reconcile_names_a_leaf_that_the_model_has_not():
    leaves = {path: leaf for path, leaf in LEAVES.items() if "head" not in path}
    assert "params/head/kernel: the key table names it" in mismatches(leaves=leaves)


def test_reconcile_names_a_leaf_that_the_table_gives_twice():
    twice = (*ENTRIES, dataclasses.replace(ENTRIES[1], source="fc.weight"))
    assert "params/stem/bn/scale: the key table gives it 2 tensors" in mismatches(entries=twice)


@pytest.mark.parametrize("held", [True, False])
def test_a_replaced_leaf_needs_no_fitting_tensor(held):
    tensors = dict(TENSORS) if held else {k: v for k, v in TENSORS.items() if k != "fc.weight"}
    leaves = {**LEAVES, "params/head/kernel": spec(64, 10)}
    replaced = {"params/head/kernel": ("initialised", "10 classes asked")}
    row = ledger(pair(tensors=tensors, leaves=leaves, replaced=replaced)).destinations[
        "params/head/kernel"
    ]
    assert (row.status, row.reason) == ("initialised", "10 classes asked")
    assert row.source == ("fc.weight" if held else None)


def test_transformed_shape_needs_no_memory_for_a_claimed_petabyte():
    entry = Entry(source="a", destination="b", transform=flatten_chw_to_hwc(10**5, 10**4, 10**4))
    assert transformed_shape(entry, (100, 10**13)) == (10**13, 100)


@pytest.mark.parametrize("shape", [(4,), (2, 3), ()])
def test_transformed_shape_is_none_where_the_transform_cannot_be_applied(shape):
    assert transformed_shape(ENTRIES[0], shape) is None


def test_ledger_is_the_same_after_json():
    book = dataclasses.replace(ledger(pair()), notes=("prefix 'module.' removed",))
    assert Ledger.from_json(book.to_json()) == book
    assert json.loads(book.to_json())["rows"][0]["destination"] == "params/stem/conv/kernel"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"nonsense": 1}], "notes": []}'])
def test_from_json_refuses_what_is_no_ledger(text):
    with pytest.raises(WeightsError, match="no ledger"):
        Ledger.from_json(text)


def test_table_shows_every_row():
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(ledger(pair()).table())
    text = console.file.getvalue()
    for word in ("conv1.weight", "params/head/kernel", "OIHW→HWIO", "unused: counts updates"):
        assert word in text
    assert "64×3×7×7 → 7×7×3×64" in text


def test_summary_counts_each_status():
    assert ledger(pair()).summary() == (
        "a.pth (torch, torchvision layout) as net: 3 loaded, 1 unused"
    )


def test_random_rows_have_no_source():
    rows = random_rows(LEAVES, "no weights were given")
    assert ledger(rows).sources == {}
    assert ledger(rows).counts == {"initialised": 3}
    assert rows[0] == Row(
        destination="params/stem/conv/kernel",
        shape=(7, 7, 3, 64),
        dtype="float32",
        status="initialised",
        reason="no weights were given",
    )


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [
        ("float32", True),
        ("float64", True),
        ("float16", True),
        (jax.numpy.bfloat16, True),
        ("int8", False),
        ("bool", False),
        ("complex64", False),
        (jax.numpy.float8_e4m3fn, False),
    ],
)
def test_only_floats_of_sixteen_bits_or_more_are_weights(dtype, allowed):
    assert is_real_float(dtype) is allowed
