import jax
import numpy as np
import optax
import pytest

import jtl
from jtl.errors import ConfigError
from jtl.models.registry import create_model
from jtl.report.explain import gradcam, occlusion, overlay

SIZE, PATCH = 32, 14
CUES = np.array([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]], np.float32)


def planted(rng, count):
    """Noise with a coloured patch that alone says the class: images, labels, and its pixels."""
    labels = np.arange(count) % 2
    images = rng.normal(0, 0.3, (count, SIZE, SIZE, 3)).astype(np.float32)
    patches = np.zeros((count, SIZE, SIZE), bool)
    for place in range(count):
        top, left = rng.integers(0, SIZE - PATCH + 1, 2)
        patches[place, top : top + PATCH, left : left + PATCH] = True
        images[place, patches[place]] += CUES[labels[place]]
    return images, labels, patches


@pytest.fixture(scope="module")
def trained():
    """A tiny network that has learnt the cue, and images it has not seen."""
    rng = np.random.default_rng(0)
    pretrained = jtl.load_model("resnet_mini", weights=None, num_classes=2, rng=0)
    model, tx = pretrained.model, optax.adam(3e-3)
    tx = jtl.partition_optimizer(tx, jtl.freeze_labels(pretrained.variables["params"], "none"))
    state = jtl.TrainState.create(pretrained.variables, tx, rng=0)
    step = jax.jit(jtl.make_train_step(model, tx, freeze="none"))
    for _ in range(60):
        images, labels, _ = planted(rng, 32)
        state, metrics = step(state, {"image": images, "label": labels})
    assert metrics["loss"] < 0.1
    return model, state.variables, planted(rng, 16)


def mass_on_patch(maps, patches):
    """For each image, the share of the mass of its map's upper decile that lies on the patch."""
    shares = []
    for own, patch in zip(maps, patches):
        upper = np.where(own >= np.quantile(own, 0.9), np.clip(own, 0, None), 0)
        shares.append(upper[patch].sum() / upper.sum())
    return np.array(shares)


@pytest.mark.parametrize("stage", ["stem", "layer1", "layer2"])
def test_gradcam_of_a_stage_looks_at_the_cue(trained, stage):
    model, variables, (images, labels, patches) = trained
    maps = gradcam(model, variables, images, labels, stage=stage)
    assert maps.shape == images.shape[:3]
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1, rtol=1e-6)
    assert mass_on_patch(maps, patches).min() >= 0.9


def test_gradcam_looks_by_default_at_the_last_stage(trained):
    model, variables, (images, labels, patches) = trained
    maps = gradcam(model, variables, images, labels)
    assert (maps == gradcam(model, variables, images, labels, stage="layer3")).all()
    # Each of its 4 by 4 cells is 8 pixels wide, so that some of the brightest overlap the edge.
    assert mass_on_patch(maps, patches).mean() >= 0.8


def test_occlusion_looks_at_the_cue(trained):
    model, variables, (images, labels, patches) = trained
    assert mass_on_patch(occlusion(model, variables, images, labels), patches).min() >= 0.9


def test_a_map_is_of_the_class_that_was_asked_for(trained):
    model, variables, (images, labels, _) = trained
    own = gradcam(model, variables, images[:2], labels[:2], stage="layer2")
    other = gradcam(model, variables, images[:2], 1 - labels[:2], stage="layer2")
    assert np.abs(own - other).max() > 0.5


@pytest.mark.parametrize(("name", "size"), [("vgg11", 32), ("inception_v3", 75)])
def test_stages_without_a_map_are_refused(name, size):
    model = create_model(name, num_classes=2)
    images = np.zeros((1, size, size, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(ConfigError, match="has no map to show; those that have are"):
        gradcam(model, shapes, images, 0, stage="head")
    with pytest.raises(ConfigError, match="class_index names class 2"):
        gradcam(model, shapes, images, 2)


def test_an_overlay_is_bright_where_the_map_is():
    image, heat = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4), np.float32)
    heat[1, 2] = 0.5
    laid = overlay(image, heat).astype(int).sum(axis=-1)
    assert laid.argmax() == 6
    assert (overlay(image, 0 * heat)[0, 0] == overlay(image, heat)[0, 0]).all()
