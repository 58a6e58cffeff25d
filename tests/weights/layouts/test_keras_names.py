import random

import pytest

from jtl.weights.layouts.keras_names import table_names
from tests import golden

FIXTURES = [name for name in golden.names() if name.startswith("keras-")]


def peer_shapes(fixture: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the order in which the peer's model lists its layers."""
    return golden.shapes(golden.load(fixture)["meta"])


def shifted(shapes: dict[str, tuple[int, ...]], first: int) -> dict[str, tuple[int, ...]]:
    """As a program that made other models before would number the layers."""
    out = {}
    for name, shape in shapes.items():
        layer, variable = name.split("/")
        kind, _, number = layer.rpartition("_")
        if layer in ("conv2d", "batch_normalization"):
            kind, number = layer, "0"
        if kind in ("conv2d", "batch_normalization"):
            layer = f"{kind}_{int(number) + first}"
        out[f"{layer}/{variable}"] = shape
    return out


def by_class_and_place(shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """As a weight file of Keras 3 without layer names has them: class and place in the model."""
    layers: dict[str, str] = {}
    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        layer = name.split("/")[0]
        if layer not in layers:
            kind = {4: "conv2d", 2: "dense"}.get(len(shape), "batch_normalization")
            place = counts.get(kind, 0)
            counts[kind] = place + 1
            layers[layer] = f"{kind}_{place}" if place else kind
    return {name: f"{layers[name.split('/')[0]]}/{name.split('/')[1]}" for name in shapes}


@pytest.mark.parametrize("fixture", FIXTURES)
def test_names_of_the_peer_stay_as_they_are(fixture):
    shapes = peer_shapes(fixture)
    assert table_names(shapes) == {name: name for name in shapes}


@pytest.mark.parametrize("first", [1, 94, 1000])
def test_numbers_are_taken_by_rank_whatever_they_begin_with(first):
    shapes = peer_shapes("keras-InceptionV3")
    later = shifted(shapes, first)
    assert list(table_names(later).values()) == list(shapes)


def test_order_of_the_file_says_nothing():
    shapes = peer_shapes("keras-InceptionV3")
    later = list(shifted(shapes, 7).items())
    expected = table_names(dict(later))
    for seed in range(5):
        random.Random(seed).shuffle(later)
        assert table_names(dict(later)) == expected


def test_numbers_are_compared_as_numbers_and_not_as_text():
    names = {"conv2d_9/kernel": (1,), "conv2d_10/kernel": (1,), "conv2d_100/kernel": (1,)}
    assert list(table_names(names).values()) == [
        "conv2d/kernel",
        "conv2d_1/kernel",
        "conv2d_2/kernel",
    ]


def test_numbers_with_gaps_keep_their_order():
    names = {"batch_normalization_40/beta": (1,), "batch_normalization_3/beta": (1,)}
    assert table_names(names) == {
        "batch_normalization_40/beta": "batch_normalization_1/beta",
        "batch_normalization_3/beta": "batch_normalization/beta",
    }


@pytest.mark.parametrize("fixture", FIXTURES)
def test_file_that_numbers_each_class_by_place_gets_the_layers_names(fixture):
    shapes = peer_shapes(fixture)
    placed = by_class_and_place(shapes)
    found = table_names({placed[name]: shape for name, shape in shapes.items()})
    assert found == {place: name for name, place in placed.items()}


def test_inception_without_its_head_is_told_apart_by_a_kernel():
    shapes = {n: s for n, s in peer_shapes("keras-InceptionV3").items() if "predictions" not in n}
    placed = by_class_and_place(shapes)
    assert placed["conv2d_8/kernel"] == "conv2d_5/kernel"
    found = table_names({placed[name]: shape for name, shape in shapes.items()})
    assert found["conv2d_5/kernel"] == "conv2d_8/kernel"
    assert table_names(shapes)["conv2d_5/kernel"] == "conv2d_5/kernel"


def test_head_of_another_name_is_taken_where_it_is_the_only_dense_layer():
    base = {"conv1_conv/kernel": (7, 7, 3, 64)}
    assert table_names({**base, "probs/bias": (5,)})["probs/bias"] == "predictions/bias"
    assert table_names({**base, "dense_3/bias": (5,)})["dense_3/bias"] == "predictions/bias"
    two = table_names({**base, "dense/bias": (5,), "dense_1/bias": (5,)})
    assert two["dense_1/bias"] == "dense_1/bias"


def test_names_that_would_collide_are_left_alone():
    names = {"conv2d_v1_1/kernel": (1,), "conv2d_1/kernel": (1,), "conv2d/kernel": (1,)}
    assert len(set(table_names(names).values())) == 3
