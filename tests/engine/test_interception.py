"""BatchNorm and dropout under interception: Flax's own numbers, global, masked, keyed, frozen."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.engine.batch import BatchContext
from jtl.engine.forward import LinenForward
from jtl.engine.interception import intercept_evaluation
from jtl.engine.modes import make_modes
from jtl.errors import ConfigError
from jtl.tree import differences
from tests.engine.nets import variables_of

IMAGES = np.random.default_rng(0).normal(1.0, 2.0, size=(8, 8, 8, 3)).astype(np.float32)


class Norm(nn.Module):
    """One BatchNorm on images whose channels were moved to `axis`."""

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_fast_variance: bool = True
    axis: int = -1
    at_call: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        mode = {"use_running_average": not train}
        norm = nn.BatchNorm(
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_fast_variance=self.use_fast_variance,
            axis=self.axis,
            name="bn",
            **({} if self.at_call else mode),
        )
        return norm(jnp.moveaxis(x, -1, self.axis), **(mode if self.at_call else {}))


class Drop(nn.Module):
    """Two dropouts on ones, a parameter beside them in the stage, and a head."""

    rate: float = 0.25
    broadcast_dims: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool = False):
        gain = self.param("gain", nn.initializers.ones, ())
        drop = partial(nn.Dropout, self.rate, self.broadcast_dims, deterministic=not train)
        first, second = drop(name="first")(jnp.ones_like(x)), drop(name="second")(jnp.ones_like(x))
        return jnp.stack([first, second]) * gain


def trained(net, x=IMAGES, freeze=(), mask=None, position=None, step=0, variables=None):
    variables = {"batch_stats": {}, **(variables or variables_of(net))}
    context = BatchContext(
        modes=make_modes(jtl.freeze_labels(variables["params"], freeze)),
        position=jnp.arange(len(x)) if position is None else jnp.asarray(position),
        mask=jnp.ones(len(x), bool) if mask is None else jnp.asarray(mask),
        axis_name=None,
    )

    def train(variables, x, step):
        return LinenForward(model=net).train(variables, x, jax.random.key(0), step, context)

    output, stats = jax.jit(train)(variables, x, jnp.asarray(step))
    return np.asarray(output), stats


def dropped(net, x=IMAGES, **options):
    return trained(net, x, **{"variables": {"params": {"gain": jnp.ones(())}}, **options})[0]


@pytest.mark.parametrize(
    "net",
    [
        Norm(),
        Norm(momentum=0.3, epsilon=0.1),
        Norm(use_fast_variance=False, at_call=True),
        Norm(axis=1),
    ],
)
def test_batch_norm_on_one_device_is_flaxs_own(net):
    variables = variables_of(net)
    apply = jax.jit(partial(net.apply, train=True, mutable=["batch_stats"]))
    expected, changed = apply(variables, IMAGES)
    output, stats = trained(net)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    for name, value in changed["batch_stats"]["bn"].items():
        np.testing.assert_allclose(stats["bn"][name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("fast", [True, False])
def test_masked_examples_leave_no_trace_in_statistics(fast):
    net = Norm(use_fast_variance=fast)
    spoilt = IMAGES.copy()
    spoilt[5:] = 1e3
    expected, kept = trained(net, IMAGES[:5])
    output, stats = trained(net, spoilt, mask=np.arange(8) < 5)
    np.testing.assert_allclose(output[:5], expected, atol=1e-5)
    for name, value in kept["bn"].items():
        np.testing.assert_allclose(stats["bn"][name], value, rtol=1e-5, err_msg=name)


def test_two_variances_agree_where_the_mean_is_small_and_only_one_survives_a_large_mean():
    def variance(fast, offset):
        _, stats = trained(Norm(use_fast_variance=fast, momentum=0.0), IMAGES + np.float32(offset))
        return np.asarray(stats["bn"]["var"])

    expected = IMAGES.astype(np.float64).var((0, 1, 2))
    np.testing.assert_allclose(variance(True, 0), expected, rtol=1e-4)
    np.testing.assert_allclose(variance(False, 0), expected, rtol=1e-4)
    np.testing.assert_allclose(variance(False, 1e4), expected, rtol=1e-2)
    assert np.abs(variance(True, 1e4) / expected - 1).max() > 0.1


def test_the_fast_variance_survives_a_large_mean_that_the_running_mean_is_near():
    net, offset = Norm(momentum=0.0), np.float32(1e4)
    _, stats = trained(net, IMAGES + offset)
    variables = {**variables_of(net), "batch_stats": stats}
    _, stats = trained(net, IMAGES + offset, variables=variables)
    expected = (IMAGES + offset).astype(np.float64)
    np.testing.assert_allclose(stats["bn"]["var"], expected.var((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(stats["bn"]["mean"], expected.mean((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("at_call", [True, False])
def test_frozen_batch_norm_holds_still(at_call):
    net = Norm(at_call=at_call)
    variables = variables_of(net)
    output, stats = trained(net, freeze="all")
    assert not differences(variables["batch_stats"], stats)
    np.testing.assert_allclose(output, net.apply(variables, IMAGES), atol=1e-6)


def test_half_precision_sums_in_single():
    net = Norm(momentum=0.0)
    x = np.random.default_rng(1).normal(100.0, 1.0, size=(64, 16, 16, 3))
    half = jnp.asarray(x, jnp.bfloat16)
    output, stats = trained(net, half)
    expected = np.asarray(half, np.float64)
    assert output.dtype == jnp.float32  # by the float32 parameters, as Flax promotes
    np.testing.assert_allclose(stats["bn"]["mean"], expected.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats["bn"]["var"], expected.var((0, 1, 2)), rtol=0.02)


def test_dropout_drops_its_share_and_scales_up_the_rest():
    first, second = dropped(Drop(rate=0.25), np.ones((64, 8, 8, 3), np.float32))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    for mask in (first, second):
        # Five standard deviations of 12,288 draws.
        assert np.mean(mask > 0) == pytest.approx(0.75, abs=5 * np.sqrt(0.25 * 0.75 / mask.size))
    both = np.mean((first > 0) & (second > 0))
    assert both == pytest.approx(0.75**2, abs=0.02)


def test_dropout_masks_follow_position_and_step():
    order = np.random.default_rng(0).permutation(8)
    plain, _ = dropped(Drop())
    moved, _ = dropped(Drop(), position=order)
    later, _ = dropped(Drop(), step=1)
    np.testing.assert_array_equal(moved, plain[order])
    assert len(np.unique(plain.reshape(8, -1), axis=0)) == 8
    assert not np.array_equal(later, plain)


def test_dropout_masks_do_not_depend_on_the_rest_of_the_batch():
    whole, _ = dropped(Drop())
    part, _ = dropped(Drop(), IMAGES[2:4], position=[2, 3])
    np.testing.assert_array_equal(part, whole[2:4])


def test_dropout_shares_one_draw_along_broadcast_dimensions():
    output, _ = dropped(Drop(rate=0.5, broadcast_dims=(1, 2)))
    np.testing.assert_array_equal(output, np.broadcast_to(output[:, :1, :1], output.shape))
    assert set(np.unique(output)) == {np.float32(0), np.float32(2)}


@pytest.mark.parametrize(("rate", "value"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_of_nothing_or_of_all(rate, value):
    output = dropped(Drop(rate=rate))
    np.testing.assert_array_equal(output, np.full_like(output, value))


def test_dropout_is_off_where_its_stage_is_frozen():
    # `first` is outside any stage, so it belongs to the head.
    variables = {"params": {"gain": jnp.ones(()), "head": {"kernel": jnp.ones((2, 2))}}}
    output = dropped(Drop(), freeze=["head"], variables=variables)
    np.testing.assert_array_equal(output, np.ones_like(output))
    output = dropped(Drop(), freeze=["gain"], variables=variables)
    assert (output == 0).any()


@pytest.mark.parametrize("layer", ["BatchNorm", "dropout"])
def test_a_first_axis_that_is_not_the_batch_is_refused(layer):
    class Folded(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            rows = nn.Dense(2, name="head")(x.reshape(-1, x.shape[-1]))
            if layer == "BatchNorm":
                return nn.BatchNorm(use_running_average=not train, name="rows_bn")(rows)
            return nn.Dropout(0.5, deterministic=not train, name="rows_drop")(rows)

    path = "rows_bn" if layer == "BatchNorm" else "rows_drop"
    with pytest.raises(ConfigError, match=rf"{layer} at '{path}'.*\[512, 2\].* batch of 8"):
        trained(Folded())


class Fixed(nn.Module):
    """Layers whose modes are written into the module."""

    norm: tuple = ()
    drop: tuple = ()

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(**dict(self.norm), name="bn")(x)
        x = nn.Dropout(0.5, **dict(self.drop), name="drop")(x)
        return nn.Dense(2, name="head")(x)


STORED, BATCH = (("use_running_average", True),), (("use_running_average", False),)
STILL, DROPS = (("deterministic", True),), (("deterministic", False),)


def fixed_variables():
    return variables_of(Fixed(STORED, STILL))


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Fixed(STORED, DROPS), r"BatchNorm at 'bn' is fixed to use_running_average=True.*'affine'"),
        (Fixed(BATCH, STILL), r"dropout at 'drop' is fixed to deterministic=True"),
    ],
)
def test_a_mode_fixed_for_evaluation_is_refused_in_training(net, said):
    with pytest.raises(ConfigError, match=said):
        trained(net, variables=fixed_variables())


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Fixed(BATCH, STILL), r"BatchNorm at 'bn' is fixed to use_running_average=False"),
        (Fixed(STORED, DROPS), r"dropout at 'drop' is fixed to deterministic=False"),
    ],
)
def test_a_mode_fixed_for_training_is_refused_in_evaluation(net, said):
    with pytest.raises(ConfigError, match=said):
        LinenForward(model=net).evaluate(fixed_variables(), IMAGES)


def test_a_fixed_mode_that_the_freeze_spec_agrees_with_is_kept():
    variables = fixed_variables()
    output, stats = trained(Fixed(STORED, STILL), variables=variables, freeze="all")
    np.testing.assert_allclose(output, Fixed(STORED, STILL).apply(variables, IMAGES), atol=1e-6)
    assert not differences(variables["batch_stats"], stats)


def test_modes_that_are_left_open_are_filled_in():
    variables = fixed_variables()
    expected, kept = trained(Fixed(BATCH, DROPS), variables=variables)
    output, stats = trained(Fixed((), ()), variables=variables)
    np.testing.assert_array_equal(output, expected)
    assert not differences(kept, stats)
    logits = LinenForward(model=Fixed((), ())).evaluate(variables, IMAGES)
    np.testing.assert_array_equal(logits, Fixed(STORED, STILL).apply(variables, IMAGES))


def test_a_mode_given_at_the_call_is_kept_in_training():
    class Called(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            x = nn.BatchNorm(name="bn")(x, True)
            return nn.Dropout(0.5)(x, deterministic=True)

    variables = variables_of(Called())
    output, stats = trained(Called(), variables=variables)
    np.testing.assert_allclose(output, Called().apply(variables, IMAGES), atol=1e-6)
    assert not differences(variables["batch_stats"], stats)


def test_places_that_a_module_leaves_out_do_not_count():
    class Partial(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            inside = (jnp.arange(8) < 6).reshape(1, 8, 1, 1)
            return nn.BatchNorm(momentum=0.9, name="bn")(
                x, use_running_average=not train, mask=inside
            )

    variables = variables_of(Partial())
    expected, kept = trained(Norm(), IMAGES[:, :6], variables=variables)
    output, stats = trained(Partial(), variables=variables)
    np.testing.assert_allclose(output[:, :6], expected, atol=1e-5)
    for name, value in kept["bn"].items():
        np.testing.assert_allclose(stats["bn"][name], value, rtol=1e-5, err_msg=name)


def test_statistics_that_are_missing_are_named():
    net = Norm()
    variables = {**variables_of(net), "batch_stats": {}}
    step = jtl.make_eval_step(net)
    with pytest.raises(ConfigError, match=r"BatchNorm at 'bn' has no running mean and var"):
        step(variables, {"image": IMAGES, "label": jnp.zeros(len(IMAGES), jnp.int32)})


def test_epsilon_may_be_an_array():
    given, plain = Norm(epsilon=np.array(1e-3)), Norm(epsilon=1e-3)
    variables = variables_of(plain)
    with intercept_evaluation():
        np.testing.assert_array_equal(
            given.apply(variables, IMAGES), plain.apply(variables, IMAGES)
        )
