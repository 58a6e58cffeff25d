import jax
import numpy as np
import pytest

from jtl.errors import ConfigError, WeightsError
from jtl.models.registry import create_model
from jtl.weights.draw import draw_class_leaves, init_key
from jtl.weights.head import HeadPlan, check_classes, class_leaves, keep_rows, plan_head
from jtl.weights.layouts.layout import variable_shapes
from tests.weights.drawn import TINY


def plan(mode="auto", *, num_classes=None, classes=None, held=3, held_classes=("a", "b", "c")):
    return plan_head(
        mode,
        num_classes=num_classes,
        classes=classes,
        held=held,
        held_classes=held_classes,
        where="a.pth",
    )


@pytest.mark.parametrize(
    ("mode", "count", "status", "width"),
    [
        ("auto", None, "loaded", 3),
        ("auto", 3, "loaded", 3),
        ("auto", 4, "initialised", 4),
        ("keep", None, "loaded", 3),
        ("keep", 3, "loaded", 3),
        ("init", None, "initialised", 3),
        ("init", 3, "initialised", 3),
        ("init", 5, "initialised", 5),
    ],
)
def test_plan_keeps_or_draws_by_mode_and_width(mode, count, status, width):
    decided = plan(mode, num_classes=count)
    assert (decided.status, decided.num_classes) == (status, width)
    assert decided.draws == (status == "initialised")
    assert bool(decided.reason) == (status == "initialised")


def test_kept_head_keeps_the_files_class_names():
    assert plan().classes == ("a", "b", "c")
    assert plan(held_classes=None).classes is None
    assert plan(held_classes=None, classes=("x", "y", "z")).classes == ("x", "y", "z")


def test_kept_head_notes_that_other_names_were_given():
    decided = plan(classes=("x", "y", "z"))
    assert decided.classes == ("a", "b", "c")
    assert "head='match'" in decided.notes[0]
    assert plan(classes=("a", "b", "c")).notes == ()


def test_match_pairs_places_by_name():
    decided = plan("match", classes=("c", "x", "a"))
    assert decided.kept == ((0, 2), (2, 0))
    assert decided.draws
    assert not plan("match", classes=("b", "a")).draws


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "keep", "num_classes": 4}, ConfigError, "cannot give 4 classes: a.pth has 3"),
        ({"mode": "match"}, ConfigError, "needs the names of the new classes"),
        ({"mode": "other"}, ConfigError, "auto, keep, init, match"),
        ({"classes": ("a", "b"), "num_classes": 3}, ConfigError, "classes names 2"),
        ({"classes": ("a", "a")}, ConfigError, "'a' more than once"),
        ({"num_classes": 0}, ConfigError, "at least 1"),
        ({"mode": "match", "classes": ("a",), "held_classes": None}, WeightsError, "not name its"),
        ({"mode": "match", "classes": ("x", "y")}, WeightsError, "keeps nothing"),
        ({"mode": "keep", "held": None}, WeightsError, "has no head"),
        ({"held": None}, ConfigError, "say num_classes"),
    ],
)
def test_wishes_that_cannot_be_fulfilled_are_errors(options, error, message):
    with pytest.raises(error, match=message):
        plan(**options)


def test_check_classes_counts_the_names():
    assert check_classes(None, ("a", "b")) == 2
    assert check_classes(4, None) == 4
    assert check_classes(None, None) is None


def test_keep_rows_leaves_the_drawn_classes_alone():
    decided = HeadPlan(num_classes=3, status="matched", kept=((2, 0),))
    drawn, held = np.zeros((4, 3), np.float32), np.ones((4, 2), np.float32)
    result = keep_rows(drawn, held, decided, np.dtype(np.float32))
    np.testing.assert_array_equal(result, [[0, 0, 1]] * 4)
    assert not drawn.any()


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("resnet18", TINY, {"head"}),
        ("vgg11", {"hidden": 8, "widths": (4,) * 5}, {"head"}),
        ("inception_v3", {"aux_head": True}, {"head", "aux/fc"}),
    ],
)
def test_class_leaves_are_the_dense_layers_of_the_heads(name, fields, expected):
    shapes = variable_shapes(create_model(name, num_classes=7, **fields))
    found = class_leaves(shapes)
    assert set(found) == {
        f"params/{layer}/{leaf}" for layer in expected for leaf in ("kernel", "bias")
    }
    assert {shapes[path].shape[-1] for path in found} == {7}


def test_drawn_head_follows_the_layers_own_initialiser():
    model = create_model("resnet18", num_classes=50)
    shapes = variable_shapes(model)
    drawn = draw_class_leaves(model, shapes, init_key(0, "the head"))
    assert {path: leaf.shape for path, leaf in drawn.items()} == {
        "params/head/kernel": (512, 50),
        "params/head/bias": (50,),
    }
    # torch's default: uniform within 1/sqrt(512), whose deviation is that over sqrt(3).
    bound = 512**-0.5
    assert np.abs(drawn["params/head/kernel"]).max() <= bound
    assert abs(drawn["params/head/kernel"].std() / (bound / 3**0.5) - 1) < 0.02
    other = draw_class_leaves(model, shapes, init_key(1, "the head"))
    assert not np.array_equal(drawn["params/head/kernel"], other["params/head/kernel"])


def test_init_key_is_the_same_for_a_seed_and_its_key():
    first, second = init_key(5, "it"), init_key(jax.random.key(5), "it")
    assert (jax.random.key_data(first) == jax.random.key_data(second)).all()
