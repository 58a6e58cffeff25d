import itertools

import chex
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl import rng
from jtl.errors import ConfigError


def bits(key):
    return tuple(jax.random.key_data(key).ravel().tolist())


@pytest.mark.parametrize(
    "seed",
    [lambda: 7, lambda: jax.random.key(7), lambda: jax.random.PRNGKey(7)],
    ids=["integer", "typed key", "raw key"],
)
def test_base_key_is_the_same_from_every_form_of_a_seed(seed):
    key = rng.base_key(seed())
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert bits(key) == bits(jax.random.key(7, impl="threefry2x32"))


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_base_key_refuses_another_generator(implementation):
    with pytest.raises(ConfigError, match="threefry2x32"):
        rng.base_key(jax.random.key(0, impl=implementation))


def test_base_key_of_an_integer_is_threefry_whatever_the_default():
    with jax.default_prng_impl("rbg"):
        key = rng.base_key(3)
    assert bits(key) == bits(jax.random.key(3, impl="threefry2x32"))


def test_stream_keys_differ_by_seed_stream_and_step():
    parts = itertools.product((0, 1), ("dropout", "augment", "mixup"), (0, 1, 1000))
    keys = {bits(rng.stream_key(rng.base_key(s), stream, step)) for s, stream, step in parts}
    assert len(keys) == 2 * 3 * 3


def test_stream_key_is_the_same_under_jit():
    base = rng.base_key(0)
    traced = jax.jit(lambda step: rng.stream_key(base, "dropout", step))(jnp.int32(5))
    assert bits(traced) == bits(rng.stream_key(base, "dropout", 5))


def test_stream_key_keeps_its_bits():
    # Written down once: a change here would make every earlier run impossible to resume exactly.
    assert bits(rng.stream_key(rng.base_key(0), "dropout", 3)) == (3426209264, 4155611042)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=8, max_size=8))
def test_an_example_has_its_key_by_place_alone(places):
    base = rng.base_key(0)
    together = rng.example_keys(base, "augment", 2, jnp.array(places))
    chex.assert_shape(together, (8,))
    backwards = rng.example_keys(base, "augment", 2, jnp.array(places[::-1]))
    assert bits(together[::-1]) == bits(backwards)
    alone = rng.example_keys(base, "augment", 2, jnp.array(places[:1]))
    assert bits(alone[0]) == bits(together[0])


def test_example_keys_differ_by_place_and_step():
    base, places = rng.base_key(0), jnp.arange(64)
    keys = [rng.example_keys(base, "augment", step, places) for step in (0, 1)]
    assert len({bits(key) for batch in keys for key in batch}) == 128


def test_example_keys_are_the_same_on_any_number_of_devices():
    base, places = rng.base_key(0), jnp.arange(16)
    plain = rng.example_keys(base, "dropout", 4, places)
    assert jax.device_count() == 8
    spread = jax.pmap(lambda place: rng.example_keys(base, "dropout", 4, place))(
        places.reshape(8, 2)
    )
    assert bits(spread) == bits(plain)
