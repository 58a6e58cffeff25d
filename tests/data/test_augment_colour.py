"""Saturation and hue: the published formulas, and what they leave alone."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from jtl.data.augment import AugmentOptions, colour, make_augment
from jtl.data.augment.draws import symmetric

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 12, 10, 3), dtype=np.uint8)
KEYS = jax.random.split(jax.random.key(0), 8)


def amount_of(key, amount):
    return float(symmetric(key, amount))


def test_saturation_blends_with_the_grey_as_pillow_does():
    out = jax.vmap(lambda image, key: colour.saturation(image, key, 0.8))(
        IMAGES.astype(np.float32), KEYS
    )
    for image, key, own in zip(IMAGES, KEYS, out):
        factor = 1 + amount_of(key, 0.8)
        expected = ImageEnhance.Color(Image.fromarray(image)).enhance(factor)
        # Pillow rounds the grey to a level, and cuts what it blends down to one.
        np.testing.assert_allclose(own, np.asarray(expected, np.float32), atol=1.5)


def test_hue_turns_every_colour_as_colorsys_does():
    images = IMAGES.copy()
    images[:, 0] = images[:, 0, :, :1]  # a row of greys, black and white among them
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    images[:, 1, :, 1] = images[:, 1, :, 0]  # two channels the same
    out = jax.vmap(lambda image, key: colour.hue(image, key, 0.5))(images.astype(np.float32), KEYS)
    for image, key, own in zip(images, KEYS, np.asarray(out)):
        turn = amount_of(key, 0.5)
        for pixel, got in zip(image.reshape(-1, 3) / 255.0, own.reshape(-1, 3)):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
            np.testing.assert_allclose(got / 255.0, expected, atol=2e-5)


def test_hue_keeps_greys_and_the_brightest_and_darkest_channel():
    out = np.asarray(jax.jit(make_augment(AugmentOptions(hue=0.5)))(IMAGES, KEYS))
    np.testing.assert_allclose(out.max(-1), IMAGES.max(-1), atol=1e-3)
    np.testing.assert_allclose(out.min(-1), IMAGES.min(-1), atol=1e-3)
    assert np.abs(out - IMAGES).mean() > 10


@pytest.mark.parametrize("options", [{"hue": 0.4}, {"saturation": 0.9}])
def test_grey_images_keep_their_levels(options):
    grey = IMAGES[..., :1]
    augment = make_augment(AugmentOptions(**options))
    np.testing.assert_array_equal(augment(grey, KEYS), grey)
    three = np.repeat(grey, 3, axis=-1)
    np.testing.assert_allclose(augment(three, KEYS), three, atol=1e-3)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_an_amount_of_colour_is_drawn_for_each_image(name):
    images = np.repeat(IMAGES[:1], 8, axis=0)
    out = np.asarray(make_augment(AugmentOptions(**{name: 0.3}))(images, KEYS))
    assert len({own.tobytes() for own in out}) == 8


def test_jitter_stays_within_range_after_what_overshoots():
    options = AugmentOptions(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    out = jax.jit(make_augment(options))(IMAGES, KEYS)
    assert jnp.isfinite(out).all()
    assert 0 <= out.min() < out.max() <= 255
