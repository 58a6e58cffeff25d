"""Which kind of device a program is traced for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl import platforms
from jtl.models.layers import Layers
from jtl.platforms import compiler_options, on_cpu
from jtl.tree import differences


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
        assert "f32[4,4,16,64]" in str(traced())
    assert str(traced()) == before
    assert "f32[4,4,16,64]" not in before


def test_a_cpu_convolves_on_all_cores_and_sums_and_multiplies_as_xla_would():
    def program(x, kernel):
        return jax.lax.conv(x, kernel, (1, 1), "SAME"), x[0, 0] @ x[0, 1], x.sum((0, 2))

    arguments = jnp.ones((8, 64, 32, 32)), jnp.ones((64, 64, 3, 3))
    lowered = jax.jit(program, compiler_options=compiler_options()).lower(*arguments)
    text = lowered.compile().as_text()
    assert len(re.findall(r'kind":"__ynn_fusion', text)) == 2
    entry = text[text.index("\nENTRY") :]
    assert len(re.findall(r" convolution\(", entry)) == 1


def test_an_accelerator_is_told_nothing():
    with jax.default_device("tpu"):
        assert compiler_options() is None


def test_a_device_that_is_named_is_told_what_the_default_is():
    assert compiler_options() is not None
    assert compiler_options(jax.devices()[-1]) == compiler_options()


@pytest.fixture
def unknown(monkeypatch):
    monkeypatch.setattr(platforms, "_ON_CPU", {"xla_cpu_has_no_such_option": "1"})
    platforms._are_known.cache_clear()
    yield
    platforms._are_known.cache_clear()


def test_an_option_that_a_compiler_does_not_know_is_left_out(unknown):
    assert compiler_options() is None


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_what_is_changed_in_place_is_what_a_copy_would_have_become(freeze, optimized):
    net = jtl.load_model("resnet_mini", weights=None, num_classes=3, rng=0)
    tx = optax.adamw(1e-2)
    tx = jtl.partition_optimizer(tx, jtl.freeze_labels(net.variables["params"], freeze))
    step = jtl.make_train_step(net.model, tx, freeze=freeze, ema_decay=0.9)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 8, 32, 32, 3)).astype(np.float32)
    images[2, 0, 0, 0, 0] = np.nan  # a step that is skipped
    told = compiler_options()
    copying = {name: value for name, value in told.items() if "copy_insertion" not in name}

    def after(options):
        state = jtl.TrainState.create(net.variables, tx, rng=0, ema=True)
        state = jtl.parallel.single().put_state(state)
        program = jax.jit(step, donate_argnums=0, compiler_options=options)
        for image in images:
            state, _ = program(state, {"image": image, "label": np.arange(8) % 3})
        return state

    assert not differences(after(told), after(copying))
