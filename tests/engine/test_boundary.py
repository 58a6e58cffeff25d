"""The cut behind the frozen stages: where it lies, and that both parts make the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.engine.boundary import (
    Boundary,
    find_boundary,
    make_eval_tail,
    make_extract_step,
    make_tail_step,
    part_of,
)
from jtl.engine.forward import as_forward
from jtl.errors import ConfigError
from jtl.models.registry import create_model
from jtl.tree import differences, flatten
from tests.engine.nets import Plain, batch_of, build, mini, shapes_of, variables_of

NET = mini(dropout_rate=0.5)
VARIABLES = variables_of(NET)


def boundary_of(freeze, model=NET, shapes=None, **options):
    shapes = VARIABLES if shapes is None else shapes
    labels = jtl.freeze_labels(shapes["params"], freeze)
    step = jtl.make_train_step(model, optax.identity(), freeze=freeze, **options)
    return find_boundary(step, labels, shapes.get("batch_stats", {}))


@pytest.mark.parametrize(
    ("freeze", "first"),
    [
        ("backbone", "head"),
        ("all", "head"),
        (["stem..layer2"], "layer3"),
        (["stem", "layer2"], "layer1"),
        (["stem", "layer1", "!**/bn*"], "stem"),
        (["layer1..layer3"], "stem"),
        ("none", "stem"),
    ],
)
def test_the_cut_lies_behind_what_is_frozen_from_the_start(freeze, first):
    found = boundary_of(freeze)
    assert (found.first if found else "stem") == first
    if found:
        assert found.stages == NET.chain[: NET.chain.index(first)]


def test_moving_statistics_bring_the_cut_forward():
    assert boundary_of("backbone", batch_norm="statistics") is None
    assert boundary_of("backbone", batch_norm={"layer2": "statistics"}).first == "layer2"
    affine = ["stem..layer3", "!layer2/**/bn*"]
    assert boundary_of(affine, batch_norm={"layer2": "affine"}).first == "layer2"


def test_dropout_in_frozen_stages_leaves_no_cut():
    assert boundary_of("backbone", frozen_dropout=True) is None


def test_networks_without_stages_have_no_cut():
    net = Plain()
    assert boundary_of(["conv", "bn"], net, variables_of(net)) is None
    with pytest.raises(ConfigError, match="own stages"):
        part_of(as_forward(net), first="head")


def test_a_branch_that_learns_keeps_the_stage_it_hangs_on():
    net = create_model("inception_v3", num_classes=4, aux_head=True)
    shapes = shapes_of(net, 299)
    assert boundary_of("backbone", net, shapes).first == "mixed6"
    assert boundary_of(["stem"], net, shapes).first == "mixed5"
    assert boundary_of(["stem..mixed7", "aux"], net, shapes).first == "head"
    plain = create_model("inception_v3", num_classes=4)
    assert boundary_of("backbone", plain, shapes_of(plain, 96)).first == "head"


def test_a_branch_that_learns_runs_behind_the_cut():
    net = create_model("inception_v3", num_classes=4, aux_head=True)
    shapes = shapes_of(net, 299)
    labels = jtl.freeze_labels(shapes["params"], "backbone")
    tx = jtl.partition_optimizer(optax.sgd(0.1), labels)
    step = jtl.make_train_step(net, tx, freeze="backbone")
    tail = make_tail_step(step, boundary_of("backbone", net, shapes), shapes)
    state = tail.cut(jax.eval_shape(lambda v: jtl.TrainState.create(v, tx, rng=0), shapes))
    batch = {"image": jnp.zeros((2, 35, 35, 288)), "label": jnp.zeros(2, jnp.int32)}
    jaxpr = str(jax.make_jaxpr(lambda s: tail(s, batch)[0].batch_stats["aux"])(state))
    assert "conv_general_dilated" in jaxpr


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11"])
def test_features_are_pooled_where_only_the_head_is_left(name):
    size = 8 if name == "resnet_mini" else 32
    net = NET if name == "resnet_mini" else create_model(name, num_classes=4, hidden=8)
    shapes = shapes_of(net, size)
    step = jtl.make_train_step(net, optax.identity(), freeze="backbone")
    boundary = boundary_of("backbone", net, shapes)
    extract = make_extract_step(step, boundary, jax.random.key(0))
    images = jnp.zeros((2, size, size, 3))
    rows = jax.eval_shape(extract, boundary.held(shapes), {"image": images})
    assert rows.shape == (2, net.feature_width)


@pytest.mark.parametrize(("freeze", "ema"), [("backbone", True), (("stem..layer1",), False)])
def test_both_parts_make_the_whole_step(x64, freeze, ema):
    options = {"ema_decay": 0.9} if ema else {}
    variables = variables_of(NET, dtype=jnp.float64)
    step, state = build(NET, variables, freeze, tx=optax.adamw(0.01), **options)
    if ema:
        state = jtl.TrainState.create(variables, step.tx, rng=0, ema=True)
    boundary = find_boundary(step, jtl.freeze_labels(variables["params"], freeze), {})
    tail = make_tail_step(step, boundary, variables)
    extract = jax.jit(make_extract_step(step, boundary, state.rng))
    whole, cut = state, tail.cut(state)
    run_whole, run_tail = jax.jit(step), jax.jit(tail)
    for seed in range(3):
        batch = batch_of(8, masked=(2,), dtype=np.float64, seed=seed)
        rows = {**batch, "image": extract(boundary.held(variables), batch)}
        whole, expected = run_whole(whole, batch)
        cut, metrics = run_tail(cut, rows)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-9, err_msg=name)
    after = flatten(tail.whole(cut, state))
    assert after.keys() == flatten(whole).keys()
    for path, leaf in flatten(whole).items():
        if path != "rng":
            np.testing.assert_allclose(after[path], leaf, rtol=1e-9, atol=1e-12, err_msg=path)


def test_a_cut_state_is_made_whole_again_with_its_bits():
    step, state = build(NET, VARIABLES, "backbone")
    tail = make_tail_step(step, boundary_of("backbone"), VARIABLES)
    cut = tail.cut(state)
    assert set(cut.params) == {"head"}
    assert not cut.batch_stats
    # No mark for what is frozen either: every step would take all of them apart again.
    assert jax.tree.structure(cut.opt_state).num_nodes == len(jax.tree.leaves(cut.opt_state)) + 1
    assert not differences(state, tail.whole(cut, state))


def test_evaluation_behind_the_cut_is_that_of_the_whole():
    boundary = boundary_of(["stem..layer2"])
    whole = jtl.make_eval_step(NET)
    batch = batch_of(8, masked=(7,))
    step = jtl.make_train_step(NET, optax.identity())
    extract = jax.jit(make_extract_step(step, boundary, jax.random.key(0)))
    rows = extract(boundary.held(VARIABLES), batch)
    tail = jax.jit(make_eval_tail(whole, boundary))
    sums = tail(boundary.rest(VARIABLES), {**batch, "image": rows})
    for name, value in jax.jit(whole)(VARIABLES, batch).items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5, err_msg=name)


def test_views_are_drawn_by_example_and_view_alone():
    def prepare(batch, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 3)))(keys)
        return {"image": batch["image"] + noise}

    step = jtl.make_train_step(NET, optax.identity(), prepare=prepare)
    boundary = Boundary(stages=("stem",), first="layer1")
    extract = jax.jit(make_extract_step(step, boundary, jax.random.key(5)))
    image = np.repeat(batch_of(1)["image"], 4, axis=0)
    ids = {"example": np.array([3, 3, 4, 3], np.int32), "view": np.array([0, 1, 0, 0], np.int32)}
    rows = np.asarray(extract(boundary.held(VARIABLES), {"image": image, **ids}))
    np.testing.assert_array_equal(rows[0], rows[3])
    assert np.abs(rows[0] - rows[1]).max() > 0.01
    assert np.abs(rows[0] - rows[2]).max() > 0.01
