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


def planted(rng, count, size=SIZE, side=PATCH):
    """Noise with a coloured patch that alone says the class: images, labels, and its pixels."""
    labels = np.arange(count) % 2
    images = rng.normal(0, 0.3, (count, size, size, 3)).astype(np.float32)
    patches = np.zeros((count, size, size), bool)
    for place in range(count):
        top, left = rng.integers(0, size - side + 1, 2)
        patches[place, top : top + side, left : left + side] = True
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


@pytest.mark.parametrize("stage", ["stem", "layer1", "layer2", "layer3"])
def test_gradcam_of_every_stage_looks_at_the_cue(trained, stage):
    model, variables, _ = trained
    # The last stage's cells are 8 pixels wide: a patch is seen by several of them.
    images, labels, patches = planted(np.random.default_rng(5), 16, 2 * SIZE, 2 * PATCH)
    maps = gradcam(model, variables, images, labels, stage=stage)
    assert maps.shape == images.shape[:3]
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1, rtol=1e-6)
    assert mass_on_patch(maps, patches).min() >= 0.9


def test_gradcam_looks_by_default_at_the_last_stage(trained):
    model, variables, (images, labels, patches) = trained
    maps = gradcam(model, variables, images, labels)
    assert (maps == gradcam(model, variables, images, labels, stage="layer3")).all()
    # Some of its 4 by 4 cells that are brightest overlap the edge of a patch.
    assert mass_on_patch(maps, patches).mean() >= 0.9


@pytest.mark.soak
@pytest.mark.parametrize(("name", "size"), [("vgg11", 64), ("inception_v3", 139)])
def test_a_map_follows_the_image_that_moves(name, size):
    model = create_model(name, num_classes=2)
    rng = np.random.default_rng(0)
    still = np.zeros((1, size, size, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), still)
    bright, centres = np.repeat(still, 2, 0), []
    for place, corner in enumerate((0, size // 2)):
        part = slice(corner, corner + size // 2)
        bright[place, part, part] = rng.normal(0, 3, (size // 2, size // 2, 3))
        centres.append(corner + size / 4)
    stage = "block3" if name == "vgg11" else "stem"
    found = []
    for class_index in (0, 1):  # what speaks for one class speaks against the other
        maps = gradcam(model, variables, bright, class_index, stage=stage)
        assert maps.shape == bright.shape[:3]
        assert maps.min() >= 0
        weights = maps.sum(axis=(1, 2))
        rows = (maps.sum(axis=2) * np.arange(size)).sum(axis=1)
        found.append(np.where(weights > 0, rows / np.maximum(weights, 1e-9), np.nan))
    away = np.abs(np.array(found) - centres)
    assert (np.nanmin(away, axis=0) < size / 8).all()


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
