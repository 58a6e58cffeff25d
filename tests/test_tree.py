import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jtl import tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    first: jax.Array
    second: list[jax.Array]


@pytest.fixture
def params():
    return {
        "stem": {"conv": {"kernel": jnp.zeros((3, 3, 1, 4))}},
        "layer1": {"block0": {"bn1": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}},
        "head": {"kernel": jnp.ones((4, 2), jnp.bfloat16)},
    }


names = st.text("ab1_.", min_size=1, max_size=4)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
patterns = st.text("ab*?/", max_size=8)
leaves = st.dictionaries(paths, st.integers(0, 9), min_size=1, max_size=6).filter(
    lambda found: not any(f"{other}/".startswith(f"{path}/") for path in found for other in found
                          if other != path)
)  # fmt: skip


def glob_by_letter(pattern, path):
    """The matcher's rules again, one letter at a time and without regular expressions."""
    if not pattern:
        return path == "" or path.startswith("/")
    if pattern.startswith("**/"):
        starts = [0, *(i + 1 for i, letter in enumerate(path) if letter == "/")]
        return any(glob_by_letter(pattern[3:], path[start:]) for start in starts)
    if pattern.startswith("**"):
        return any(glob_by_letter(pattern[2:], path[i:]) for i in range(len(path) + 1))
    if pattern.startswith("*"):
        name = path.split("/", maxsplit=1)[0]
        return any(glob_by_letter(pattern[1:], path[i:]) for i in range(len(name) + 1))
    fits = path != "" and (path[0] == pattern[0] or (pattern[0] == "?" and path[0] != "/"))
    return fits and glob_by_letter(pattern[1:], path[1:])


@settings(deadline=None)
@given(patterns, paths)
@example("**/b", "a/a/b")
@example("a/**/b", "a/b")
@example("a**b", "a/b/b")
@example("*", "a/b")
def test_matches_agrees_with_the_rules_letter_by_letter(pattern, path):
    assert tree.matches(pattern, path) == glob_by_letter(pattern.strip("/"), path)


@settings(deadline=None)
@given(paths)
def test_matches_every_parent_of_a_path_and_no_part_of_a_name(path):
    steps = path.split("/")
    for length in range(1, len(steps) + 1):
        assert tree.matches("/".join(steps[:length]), path)
    assert not tree.matches(path, path + "x")
    assert not tree.matches(f"{path}/x", path)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("layer4/*/bn*", "layer4/block0/bn1/scale", True),
        ("layer4/*/bn*", "layer4/block0/conv1/kernel", False),
        ("layer4/*", "layer4", False),
        ("layer1", "layer10/kernel", False),
        ("**/bias", "head/bias", True),
        ("**/bias", "bias", True),
        ("layer?", "layer4/x", True),
        ("layer?", "layer10/x", False),
        ("head/", "head/kernel", True),
        ("a.b", "axb", False),
        ("a[b]", "ab", False),
        ("a[b]", "a[b]", True),
    ],
)
def test_matches_by_example(pattern, path, expected):
    assert tree.matches(pattern, path) is expected


def test_flatten_names_keys_attributes_and_indices():
    nested = {"m": Moments(first=jnp.zeros(1), second=[jnp.ones(1), jnp.ones(2)])}
    assert list(tree.flatten(nested)) == ["m/first", "m/second/0", "m/second/1"]


def test_flatten_names_the_steps_of_an_optimizer_state(params):
    state = optax.adam(1e-3).init(params)
    assert "0/mu/head/kernel" in tree.flatten(state)
    assert "0/count" in tree.flatten(state)


@settings(deadline=None)
@given(leaves)
def test_unflatten_is_the_inverse_of_flatten(found):
    assert tree.flatten(tree.unflatten(found)) == found


def test_map_with_path_gives_each_leaf_its_path(params):
    named = tree.map_with_path(lambda path, leaf, other: (path, leaf is other), params, params)
    assert named["head"]["kernel"] == ("head/kernel", True)


def test_select_and_merge_restore_the_tree(params):
    labels = tree.map_with_path(lambda path, _: "a" if "layer1" in path else "b", params)
    first, second = tree.select(params, labels, "a"), tree.select(params, labels, "b")
    assert list(tree.flatten(first)) == ["layer1/block0/bn1/bias", "layer1/block0/bn1/scale"]
    assert tree.count(first) + tree.count(second) == tree.count(params)
    chex.assert_trees_all_equal(tree.merge(first, second), params)
    chex.assert_trees_all_equal(tree.merge(second, first), params)


def test_count_and_nbytes_are_of_all_leaves(params):
    assert tree.count(params) == 36 + 8 + 8
    assert tree.nbytes(params) == 4 * 44 + 2 * 8


def test_count_and_nbytes_need_no_values(params):
    shapes = jax.eval_shape(lambda: params)
    assert tree.count(shapes) == tree.count(params)
    assert tree.nbytes(shapes) == tree.nbytes(params)


def test_digest_is_of_the_bits_alone(params):
    copied = jax.tree.map(np.array, params)
    assert tree.digest(copied) == tree.digest(params)


@pytest.mark.parametrize(
    "change",
    [
        lambda leaf: leaf.at[0, 0].set(2.0),
        lambda leaf: -leaf,
        lambda leaf: leaf.astype(jnp.float32),
        lambda leaf: leaf.reshape(2, 4),
        lambda leaf: {"inner": leaf},
    ],
    ids=["value", "sign", "dtype", "shape", "path"],
)
def test_digest_and_differences_see_any_change(params, change):
    changed = {**params, "head": {"kernel": change(params["head"]["kernel"])}}
    assert tree.digest(changed) != tree.digest(params)
    assert all(line.startswith("head/kernel") for line in tree.differences(params, changed))
    assert tree.differences(params, changed)


def test_digest_tells_the_sign_of_zero():
    assert tree.digest({"a": jnp.array(0.0)}) != tree.digest({"a": jnp.array(-0.0)})


def test_differences_of_equal_trees_are_none(params):
    assert tree.differences(params, jax.tree.map(jnp.array, params)) == []


def test_differences_name_every_leaf_that_is_not_the_same():
    keep = jnp.arange(3.0)
    expected = {"gone": keep, "same": keep, "moved": keep, "cast": keep, "text": np.array(["a"])}
    actual = {
        "new": keep,
        "same": keep,
        "moved": keep.at[1].add(0.5),
        "cast": keep.astype(jnp.int32),
        "text": np.array(["b"]),
    }
    assert tree.differences(expected, actual) == [
        "cast: float32[3] became int32[3]",
        "gone: missing",
        "moved: differs by up to 0.5",
        "new: not expected",
        "text: values differ",
    ]


def test_digest_and_differences_take_random_keys():
    one, other = {"rng": jax.random.key(1)}, {"rng": jax.random.key(2)}
    assert tree.digest(one) != tree.digest(other)
    assert tree.differences(one, one) == []
    assert tree.differences(one, other)[0].startswith("rng: differs")


def test_nearest_gives_close_names_best_first():
    stages = ["stem", "layer1", "layer2", "head"]
    assert tree.nearest("layer11", stages)[0] == "layer1"
    assert tree.nearest("zzzz", stages) == []
    assert len(tree.nearest("layer", [f"layer{i}" for i in range(9)], count=2)) == 2
