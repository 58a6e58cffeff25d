"""NNX modules train as Linen modules do: global, masked, keyed, frozen, and left unchanged."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jtl
from jtl.engine.batch import BatchContext
from jtl.engine.forward import as_forward
from jtl.engine.modes import make_modes
from jtl.engine.nnx import NNXForward
from jtl.errors import ConfigError
from jtl.tree import differences, flatten, map_with_path
from tests.engine.nets import batch_of, build, variables_of

IMAGES = np.random.default_rng(0).normal(1.0, 2.0, size=(8, 8, 8, 3)).astype(np.float32)
BACKBONE = ["conv", "bn"]


class Twin(nn.Module):
    """The network below in Linen."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x)
        return nn.Dense(4, name="head")(nn.relu(x).mean((1, 2)))


class Net(nnx.Module):
    """Stock layers, written with no thought of jtl."""

    def __init__(self, rate=0.0, wrap=None, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(4, 4, rngs=rngs)
        self.wrap = wrap

    def backbone(self, x):
        x = nnx.relu(self.bn(self.conv(x)))
        return self.drop(x.mean((1, 2))) if self.drop.rate > 0 else x.mean((1, 2))

    def __call__(self, x):
        backbone = Net.backbone if self.wrap is None else self.wrap(Net.backbone)
        return self.head(backbone(self, x))


class Drops(nnx.Module):
    """Two dropouts on ones, one of them used twice, and a head."""

    def __init__(self, rate=0.25, broadcast_dims=(), own_streams=True):
        rngs = nnx.Rngs(0) if own_streams else None
        self.first = nnx.Dropout(rate, broadcast_dims=broadcast_dims, rngs=rngs)
        self.second = nnx.Dropout(rate, broadcast_dims=broadcast_dims, rngs=rngs)
        self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        ones = jnp.ones_like(x)
        return jnp.stack([self.first(ones), self.second(ones), self.second(ones)])


def context_of(params, n, freeze=(), mask=None, position=None):
    return BatchContext(
        modes=make_modes(jtl.freeze_labels(params, freeze)),
        position=jnp.arange(n) if position is None else jnp.asarray(position),
        mask=jnp.ones(n, bool) if mask is None else jnp.asarray(mask),
        axis_name=None,
    )


def trained(net, x=IMAGES, step=0, variables=None, **options):
    variables = variables or jtl.nnx_variables(net)
    context = context_of(variables["params"], len(x), **options)

    def train(variables, x, step):
        return as_forward(net).train(variables, x, jax.random.key(0), step, context)

    output, stats = jax.jit(train)(variables, x, jnp.asarray(step))
    return np.asarray(output), stats


def twins(dtype=jnp.float64):
    variables = variables_of(Twin(), dtype=dtype)
    return variables, jtl.nnx_module(Net(), variables)


def assert_close(expected, actual, **tolerance):
    expected, actual = flatten(expected), flatten(actual)
    assert expected.keys() == actual.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(actual[path], leaf, err_msg=path, **tolerance)


def test_variables_come_and_go_with_their_bits():
    net = Net()
    variables = map_with_path(lambda path, leaf: leaf + len(path), jtl.nnx_variables(net))
    assert set(variables["params"]) == {"conv", "bn", "head"}
    assert set(variables["batch_stats"]["bn"]) == {"mean", "var"}
    moved = jtl.nnx_module(net, variables)
    assert not differences(variables, jtl.nnx_variables(moved))
    np.testing.assert_array_equal(moved.head.kernel[...], variables["params"]["head"]["kernel"])
    assert differences(variables, jtl.nnx_variables(net))


def test_members_of_lists_are_named_by_index():
    net = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.relu)
    assert list(flatten(jtl.nnx_variables(net)["params"])) == ["layers/0/bias", "layers/0/kernel"]


def test_variables_of_another_module_are_refused_all_mistakes_at_once():
    variables = jtl.nnx_variables(Net())
    variables["params"]["extra"] = variables["params"].pop("head")
    variables["params"]["conv"]["bias"] = jnp.zeros(7)
    said = r"'conv/bias' is \[7\] where the module has \[4\]; .*'extra/bias' is not.*'head/bias'"
    with pytest.raises(ConfigError, match=said):
        jtl.nnx_module(Net(), variables)


@pytest.mark.parametrize("freeze", [(), BACKBONE, ["conv"]])
def test_trajectory_is_that_of_the_linen_twin(x64, freeze):
    variables, net = twins()
    results = []
    for model in (Twin(), net):
        step, state = build(model, variables, freeze)
        step = jax.jit(step)
        for seed in range(3):
            state, metrics = step(state, batch_of(masked=(1, 5), dtype=np.float64, seed=seed))
        results.append((state.variables, metrics))
    assert_close(*results, rtol=1e-11, atol=1e-12)
    trained = results[0][0]
    logits = [as_forward(each).evaluate(trained, batch_of()["image"]) for each in (Twin(), net)]
    np.testing.assert_allclose(*logits, rtol=1e-11)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_eight_devices_take_the_step_of_one(x64, accumulate):
    variables, _ = twins()
    options = {"freeze": BACKBONE, "accumulate": 2} if accumulate == 2 else {}
    step, state = build(Net(rate=0.5), variables, **options)
    batch = batch_of(masked=(0, 1, 2, 7), dtype=np.float64)
    # Sixteen images in two micro-batches feed eight devices with one image each.
    places = [jtl.parallel.single(), jtl.parallel.pmap(), jtl.parallel.mesh()]
    results = []
    for place in places:
        after, metrics = place.compile(step)(place.put_state(state), place.put_batch(batch))
        results.append((place.get_state(after).variables, jax.device_get(metrics)))
    for result in results[1:]:
        assert_close(results[0], result, rtol=1e-11, atol=1e-12)


def test_statistics_of_each_devices_part_are_averaged_where_asked(x64):
    variables, net = twins()
    batch, place = batch_of(dtype=np.float64), jtl.parallel.pmap(jax.devices()[:2])
    results = []
    for model in (Twin(), net):
        step, state = build(model, variables, global_batch_norm=False)
        after, _ = place.compile(step)(place.put_state(state), place.put_batch(batch))
        results.append(place.get_state(after).variables)
    assert_close(*results, rtol=1e-11, atol=1e-12)
    step, state = build(net, variables)
    after, _ = place.compile(step)(place.put_state(state), place.put_batch(batch))
    everywhere = place.get_state(after).batch_stats
    assert not np.allclose(everywhere["bn"]["var"], results[0]["batch_stats"]["bn"]["var"], 1e-6)


def test_what_is_frozen_keeps_its_bits():
    net = Net(rate=0.5)
    step, state = build(net, jtl.nnx_variables(net), BACKBONE)
    start = jtl.nnx_variables(net)
    step = jax.jit(step)
    for seed in range(3):
        state, _ = step(state, batch_of(seed=seed))
    changed = {line.split(":")[0] for line in differences(start, state.variables)}
    assert changed == {"params/head/bias", "params/head/kernel"}


def test_the_module_that_was_given_is_not_changed():
    net = Net(rate=0.5)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngKey))))
    step, state = build(net, jtl.nnx_variables(net))
    jax.jit(step)(state, batch_of())
    after = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngKey)))
    assert not differences(before, after)
    assert type(net.bn) is nnx.BatchNorm
    assert not net.drop.deterministic


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.3, "epsilon": 0.1, "use_scale": False},
        {"use_fast_variance": False, "axis": 1},
        {"dtype": jnp.bfloat16},
    ],
)
def test_batch_norm_on_one_device_is_flaxs_own(options):
    axis = options.get("axis", -1)

    def apply(norm, x):
        return norm(jnp.moveaxis(x, -1, axis))

    class Norm(nnx.Module):
        def __init__(self):
            self.bn = nnx.BatchNorm(3, rngs=nnx.Rngs(0), **options)
            self.head = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return apply(self.bn, x)

    net = Norm()
    output, stats = trained(net)
    expected = apply(net.bn, IMAGES)
    assert output.dtype == expected.dtype
    loose = 2e-2 if "dtype" in options else 1e-5
    np.testing.assert_allclose(output.astype(np.float32), expected.astype(np.float32), atol=loose)
    for name in ("mean", "var"):
        value = getattr(net.bn, name)[...]
        np.testing.assert_allclose(stats["bn"][name], value, rtol=loose / 2, err_msg=name)


def test_statistics_in_half_precision_are_not_rounded_before_they_normalise():
    norm = nnx.BatchNorm(3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.asarray(IMAGES * 0.1 + 100, jnp.bfloat16)
    output, _ = trained(norm, x)
    np.testing.assert_allclose(output.astype(np.float32).mean((0, 1, 2)), 0, atol=0.01)


def test_masked_examples_leave_no_trace():
    _, net = twins(jnp.float32)
    spoilt = IMAGES.copy()
    spoilt[5:] = 1e3
    expected, kept = trained(net, IMAGES[:5])
    output, stats = trained(net, spoilt, mask=np.arange(8) < 5)
    np.testing.assert_allclose(output[:5], expected, atol=1e-5)
    assert_close(kept, stats, rtol=1e-5)


@pytest.mark.parametrize("own_streams", [True, False])
def test_dropout_masks_follow_module_call_position_and_step(own_streams):
    net = Drops(own_streams=own_streams)
    order = np.random.default_rng(0).permutation(8)
    masks = trained(net)[0]
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / 0.75)}
    assert len(np.unique(masks.reshape(24, -1), axis=0)) == 24
    np.testing.assert_array_equal(trained(net, position=order)[0], masks[:, order])
    np.testing.assert_array_equal(trained(net, IMAGES[2:4], position=[2, 3])[0], masks[:, 2:4])
    assert not np.array_equal(trained(net, step=1)[0], masks)


def test_dropout_shares_one_draw_along_broadcast_dimensions():
    output = trained(Drops(0.5, broadcast_dims=(1, 2)))[0]
    np.testing.assert_array_equal(output, np.broadcast_to(output[:, :, :1, :1], output.shape))


@pytest.mark.parametrize(("rate", "freeze", "value"), [(0.0, (), 1), (1.0, (), 0), (0.5, "all", 1)])
def test_dropout_of_nothing_of_all_and_in_a_frozen_stage(rate, freeze, value):
    output = trained(Drops(rate), freeze=freeze)[0]
    np.testing.assert_array_equal(output, np.full_like(output, value))


def test_a_stream_given_at_the_call_is_keyed_by_position_too():
    class Passed(nnx.Module):
        def __init__(self):
            self.rngs = nnx.Rngs(dropout=0)
            self.drop = nnx.Dropout(0.5)
            self.head = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            ones = jnp.ones_like(x)
            return jnp.stack([self.drop(ones, rngs=self.rngs) for _ in range(2)])

    masks = trained(Passed())[0]
    assert len(np.unique(masks.reshape(16, -1), axis=0)) == 16
    np.testing.assert_array_equal(trained(Passed(), IMAGES[:3])[0], masks[:, :3])


@pytest.mark.parametrize("wrap", [nnx.remat, nnx.jit], ids=["remat", "jit"])
def test_transformed_parts_of_a_module_train_the_same(wrap):
    variables, _ = twins(jnp.float32)
    results = []
    for net in (Net(rate=0.5), Net(rate=0.5, wrap=wrap)):
        step, state = build(net, variables)
        state, metrics = jax.jit(step)(state, batch_of(masked=(3,)))
        results.append((state.variables, metrics))
    assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda net, x: net.bn(x, use_running_average=False), "BatchNorm at 'bn' is fixed"),
        (lambda net, x: net.drop(x, deterministic=False), "dropout at 'drop' is fixed"),
    ],
)
def test_a_mode_fixed_for_training_is_refused_in_evaluation(call, said):
    class Fixed(Net):
        def __call__(self, x):
            return call(self, self.conv(x))

    net = Fixed(rate=0.5)
    with pytest.raises(ConfigError, match=said):
        as_forward(net).evaluate(jtl.nnx_variables(net), IMAGES)


def test_a_module_that_takes_the_mode_is_told_it():
    class Told(Net):
        def __call__(self, x, train):
            return super().__call__(x) + (1000.0 if train else 0.0)

    net = Told()
    forward = as_forward(net)
    assert isinstance(forward, NNXForward)
    assert trained(net)[0].min() > 500
    assert forward.evaluate(jtl.nnx_variables(net), IMAGES).max() < 500


def test_evaluation_uses_stored_statistics_and_no_randomness():
    variables, _ = twins(jnp.float32)
    logits = as_forward(Net(rate=0.5)).evaluate(variables, IMAGES)
    np.testing.assert_allclose(logits, Twin().apply(variables, IMAGES), atol=1e-5)


def test_statistics_other_than_batch_norms_are_averaged_over_devices():
    class Counter(nnx.Module):
        def __init__(self):
            self.largest = nnx.BatchStat(jnp.zeros(()))
            self.untouched = nnx.BatchStat(jnp.ones(()))
            self.head = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            self.largest[...] = x.max()
            return x * self.head[...]

    net = Counter()
    variables = jtl.nnx_variables(net)
    forward = as_forward(net)

    def one(images, key):
        context = BatchContext(
            modes=make_modes(jtl.freeze_labels(variables["params"], ())),
            position=jnp.arange(4),
            mask=jnp.ones(4, bool),
            axis_name="batch",
        )
        return forward.train(variables, images, key, jnp.asarray(0), context)[1]

    images = jnp.arange(8.0).reshape(2, 4, 1)
    two = partial(jax.pmap, axis_name="batch", in_axes=(0, None), devices=jax.devices()[:2])
    stats = two(one)(images, jax.random.key(0))
    np.testing.assert_array_equal(stats["largest"], [5.0, 5.0])
    np.testing.assert_array_equal(stats["untouched"], [1.0, 1.0])


def test_a_change_that_no_state_would_keep_is_refused():
    class Counter(Net):
        def __init__(self):
            super().__init__()
            self.calls = nnx.Variable(jnp.zeros(()))

        def __call__(self, x):
            self.calls[...] += 1
            return super().__call__(x)

    with pytest.raises(ConfigError, match=r"sets calls; .*nnx\.BatchStat"):
        trained(Counter())


def test_a_modules_own_order_of_stages_is_used():
    net = Net()
    assert as_forward(net).stages is None
    net.stages = ("conv", "bn", "head")
    step, state = build(net, jtl.nnx_variables(net), ["conv", "bn"])
    assert step.forward.stages == ("conv", "bn", "head")
    del state
