from functools import lru_cache

import jax
import jax.numpy as jnp
import pytest

from jtl.errors import ConfigError
from jtl.models.registry import create_model
from jtl.tree import flatten


@lru_cache
def shapes_of(model, size=299):
    return jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    )


def outputs(model, size=299, **options):
    """The shapes of what a call gives: nothing is computed."""
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda v, x: model.apply(v, x, **options), shapes_of(model), images)


def test_stages_have_the_published_shapes():
    found = outputs(create_model("inception_v3"), method="activations")
    assert {name: array.shape[1:] for name, array in found.items()} == {
        "stem": (35, 35, 192),
        "mixed5": (35, 35, 288),
        "mixed6": (17, 17, 768),
        "mixed7": (8, 8, 2048),
        "head": (1000,),
    }


def test_smallest_image_passes_and_a_smaller_one_does_not():
    model = create_model("inception_v3", num_classes=7)
    assert outputs(model, 75).shape == (2, 7)
    with pytest.raises(ConfigError, match="74×74 pixels are too small for InceptionV3"):
        outputs(model, 74)


def test_auxiliary_head_leaves_the_result_of_a_call_as_it_is():
    plain = create_model("inception_v3", num_classes=7)
    aux = plain.clone(aux_head=True)
    assert "aux" not in shapes_of(plain)["params"]
    assert set(shapes_of(aux)) == {"params", "batch_stats"}
    assert outputs(aux).shape == (2, 7)
    logits, state = outputs(aux, train=True, mutable=["batch_stats"])
    assert logits.shape == (2, 7)
    assert set(state) == {"batch_stats"}


def test_auxiliary_logits_are_left_in_training_where_asked_for():
    aux = create_model("inception_v3", num_classes=7, aux_head=True)
    logits, state = outputs(aux, train=True, mutable=["batch_stats", "aux_logits"])
    assert logits.shape == (2, 7)
    assert state["aux_logits"]["logits"].shape == (2, 7)
    _, state = outputs(aux, train=False, mutable=["aux_logits"])
    assert "aux_logits" not in state
    assert aux.aux_weight == 0.4


def test_auxiliary_head_is_no_part_of_the_chain_of_stages():
    aux = create_model("inception_v3", aux_head=True)
    assert aux.stages == ("stem", "mixed5", "mixed6", "mixed7", "head", "aux")
    assert "aux" not in outputs(aux, method="activations")
    with pytest.raises(ConfigError, match="no stage 'aux'"):
        outputs(aux, method="run_stages", last="aux")


def test_auxiliary_head_asks_for_images_of_its_size():
    aux = create_model("inception_v3", aux_head=True)
    images = jax.ShapeDtypeStruct((1, 298, 298, 3), jnp.float32)
    variables = shapes_of(aux)
    jax.eval_shape(aux.apply, variables, images)
    with pytest.raises(ConfigError, match="at least 299 pixels a side"):
        jax.eval_shape(
            lambda v, x: aux.apply(v, x, train=True, mutable=["batch_stats"]), variables, images
        )


def test_keras_variant_has_norms_without_scale():
    paths = flatten(shapes_of(create_model("inception_v3", variant="keras")))
    assert not any(path.endswith("/scale") for path in paths)
    assert "params/mixed5/b/branch5x5_1/bn/bias" in paths
    assert "params/mixed5/b/branch5x5_1/conv/kernel" in paths


@pytest.mark.slow
def test_stages_can_be_rematerialised_under_the_same_paths():
    plain = create_model("inception_v3", aux_head=True)
    remat = plain.clone(remat=("stem", "mixed5", "mixed6", "mixed7", "aux"))
    assert flatten(shapes_of(plain)).keys() == flatten(shapes_of(remat)).keys()
