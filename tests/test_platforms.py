"""Which kind of device a program is traced for."""

import jax
import jax.numpy as jnp
import pytest

from jtl.models.layers import Layers
from jtl.platforms import on_cpu


def test_a_program_is_traced_for_the_default_backend_and_for_a_device_that_is_named_instead():
    assert on_cpu()
    with jax.default_device(jax.devices("cpu")[-1]):
        assert on_cpu()


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_code_for_an_accelerator_that_is_not_here_is_traced_where_it_is_the_default(platform):
    conv = Layers().conv(64, (7, 7), stride=2, name=None)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)

    def traced():
        return jax.jit(conv.apply).trace(params, x).jaxpr

    before = str(traced())
    with jax.default_device(platform):
        assert not on_cpu()
        assert "f32[4,4,12,64]" in str(traced())
    assert str(traced()) == before
    assert "f32[4,4,12,64]" not in before
