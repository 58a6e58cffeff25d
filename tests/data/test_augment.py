"""Each operation does what it says, and each example depends on its own key alone."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from jtl.data.augment import AugmentOptions, make_augment
from jtl.data.augment.geometry import resample
from jtl.errors import ConfigError

EVERYTHING = AugmentOptions(
    flip=0.5,
    crop_padding=3,
    rotate=20,
    scale=(0.8, 1.2),
    stretch=0.3,
    shear=15,
    translate=0.1,
    elastic=1.5,
    fill=30.0,
    gamma=(0.6, 1.6),
    invert=0.5,
    brightness=0.1,
    contrast=0.3,
    saturation=0.4,
    hue=0.1,
    resolution=(6, 9),
    blur=(0.0, 1.5),
    noise=8,
    erase=0.5,
    erase_fill="noise",
)
EVERYTHING_JITTED = jax.jit(make_augment(EVERYTHING))


def pictures(count, height=12, width=10, channels=3, seed=0):
    """Random uint8 images `[count, height, width, channels]`."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def bar(size=33, half_width=1.5):
    """A white upright bar on black through the middle of a square image, `[1, size, size, 1]`."""
    across = np.abs(np.arange(size) - (size - 1) / 2) <= half_width
    image = np.zeros((size, size, 1), np.float32)
    image[4:-4, across] = 255.0
    return image[None]


def centroid(image):
    rows, columns = np.indices(image.shape[:2])
    mass = image.sum(-1)
    return np.array([(rows * mass).sum(), (columns * mass).sum()]) / mass.sum()


def orientation(image):
    """Degrees between the main axis of the bright pixels and the upright."""
    rows, columns = np.indices(image.shape[:2])
    mass = image.sum(-1) / image.sum()
    centre = centroid(image)
    dy, dx = rows - centre[0], columns - centre[1]
    spread = np.array([[(mass * dy * dy).sum(), (mass * dy * dx).sum()]] * 2)
    spread[1] = [(mass * dy * dx).sum(), (mass * dx * dx).sum()]
    axis = np.linalg.eigh(spread)[1][:, 1]
    return np.degrees(np.arctan(axis[1] / axis[0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_stay_as_they_are_with_default_options(dtype):
    images = pictures(4).astype(dtype)
    out = make_augment(AugmentOptions())(images, keys(4))
    chex.assert_type(out, jnp.float32)
    np.testing.assert_array_equal(out, images)


@pytest.mark.parametrize(
    "options",
    [
        {"rotate": 0.0, "scale": (1.0, 1.0 + 1e-12)},
        {"blur": (0.0, 1e-3)},
        {"gamma": (1.0, 1.0 + 1e-7)},
        {"crop_padding": 0, "brightness": 1e-9},
    ],
)
def test_images_stay_as_they_are_when_an_operation_draws_nothing(options):
    images = pictures(4)
    out = make_augment(AugmentOptions(**options))(images, keys(4))
    np.testing.assert_allclose(out, images, atol=2e-4)


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(order=st.permutations(range(8)), seed=st.integers(0, 2**31 - 1))
def test_examples_do_not_depend_on_the_batch_around_them(order, seed):
    images, own = pictures(8, seed=seed), keys(8, seed)
    whole = EVERYTHING_JITTED(images, own)
    halves = np.array(order[:4]), np.array(order[4:])
    parts = [EVERYTHING_JITTED(images[half], own[half]) for half in halves]
    # Compiled for another batch size, products and sums are fused in another way.
    np.testing.assert_allclose(whole[np.array(order)], np.concatenate(parts), atol=1e-2)


def test_images_differ_between_keys_and_repeat_with_the_same_key():
    images = np.repeat(pictures(1), 8, axis=0)
    own = keys(8)[np.array([0, 1, 0, 2, 3, 4, 5, 6])]
    out = EVERYTHING_JITTED(images, own)
    np.testing.assert_array_equal(out[0], out[2])
    assert np.abs(np.asarray(out[0] - out[1])).mean() > 1


def test_range_and_dtype_hold_with_every_operation_on():
    out = EVERYTHING_JITTED(pictures(8), keys(8))
    chex.assert_shape(out, (8, 12, 10, 3))
    chex.assert_type(out, jnp.float32)
    assert 0 <= out.min() < out.max() <= 255


def test_one_operation_leaves_the_draws_of_another_alone():
    images = pictures(6)
    one = make_augment(AugmentOptions(invert=0.5))(images, keys(6))
    both = make_augment(AugmentOptions(flip=1.0, invert=0.5))(images, keys(6))
    np.testing.assert_array_equal(both, np.asarray(one)[:, :, ::-1])


def test_result_is_the_same_inside_and_outside_jit():
    images, own = pictures(4), keys(4)
    function = make_augment(AugmentOptions(flip=0.5, rotate=20, blur=(0, 1), noise=3))
    np.testing.assert_allclose(jax.jit(function)(images, own), function(images, own), atol=1e-2)


def test_flip_mirrors_about_as_many_images_as_asked():
    images = pictures(400)
    out = np.asarray(make_augment(AugmentOptions(flip=0.25))(images, keys(400)))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(out, images)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(out, images)])
    assert np.all(mirrored ^ kept)
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize(("fill", "outside"), [("edge", None), (7.0, 7.0)])
def test_crop_is_a_window_of_the_padded_image(fill, outside):
    image = pictures(1)
    edges = ((2, 2), (2, 2), (0, 0))
    mode = {"mode": "edge"} if outside is None else {"constant_values": outside}
    padded = np.pad(image[0].astype(np.float32), edges, **mode)
    windows = {padded[i : i + 12, j : j + 10].tobytes() for i in range(5) for j in range(5)}
    images = np.repeat(image, 200, axis=0)
    out = make_augment(AugmentOptions(crop_padding=2, fill=fill))(images, keys(200))
    assert {np.asarray(one).tobytes() for one in out} == windows


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_resample_at_quarter_turned_places_turns_the_image(turns):
    image = pictures(1, height=9, width=9)[0].astype(np.float32)
    rows, columns = np.rot90(np.indices((9, 9)), turns, axes=(1, 2)).astype(np.float32)
    np.testing.assert_array_equal(resample(image, rows, columns, "edge"), np.rot90(image, turns))


def test_resample_halfway_between_pixels_averages_them():
    image = pictures(1)[0].astype(np.float32)
    rows, columns = np.indices((11, 9)).astype(np.float32) + 0.5
    expected = (image[1:, 1:] + image[:-1, 1:] + image[1:, :-1] + image[:-1, :-1]) / 4
    np.testing.assert_allclose(resample(image, rows, columns, "edge"), expected, rtol=1e-6)


def test_rotation_turns_a_bar_about_the_middle_by_at_most_the_angle():
    out = np.asarray(
        make_augment(AugmentOptions(rotate=30, fill=0.0))(np.repeat(bar(), 64, 0), keys(64))
    )
    angles = np.array([orientation(one) for one in out])
    assert np.abs(angles).max() <= 30.5
    assert angles.max() > 20
    assert angles.min() < -20
    for one in out:
        np.testing.assert_allclose(centroid(one), [16, 16], atol=0.1)


def test_shear_leans_a_bar_and_keeps_its_height():
    out = np.asarray(
        make_augment(AugmentOptions(shear=20, fill=0.0))(np.repeat(bar(), 64, 0), keys(64))
    )
    angles = np.array([orientation(one) for one in out])
    assert 15 < np.abs(angles).max() <= 20.5
    heights = (out.max(axis=(2, 3)) > 100).sum(axis=1)
    assert np.all(np.abs(heights - 25) <= 1)


def test_scale_magnifies_about_the_middle():
    square = np.zeros((1, 33, 33, 1), np.float32)
    square[:, 12:21, 12:21] = 255.0
    out = np.asarray(make_augment(AugmentOptions(scale=(2.0, 2.0)))(square, keys(1)))[0]
    np.testing.assert_allclose(out.sum(), 4 * square.sum(), rtol=0.02)
    np.testing.assert_allclose(centroid(out), [16, 16], atol=1e-3)


def test_stretch_changes_the_ratio_and_keeps_the_area():
    square = np.zeros((33, 33, 1), np.float32)
    square[12:21, 12:21] = 255.0
    images = np.repeat(square[None], 64, axis=0)
    out = np.asarray(make_augment(AugmentOptions(stretch=0.5))(images, keys(64)))
    height = out[:, :, 16, 0].sum(axis=1)
    width = out[:, 16, :, 0].sum(axis=1)
    np.testing.assert_allclose(height * width, (9 * 255.0) ** 2, rtol=0.04)
    ratio = width / height
    assert 1.3 < ratio.max() < 1.55
    assert 1 / 1.55 < ratio.min() < 1 / 1.3


def test_translate_moves_by_at_most_the_fraction():
    dot = np.zeros((33, 33, 1), np.float32)
    dot[14:19, 14:19] = 255.0
    images = np.repeat(dot[None], 64, axis=0)
    out = np.asarray(make_augment(AugmentOptions(translate=0.2))(images, keys(64)))
    moved = np.array([centroid(one) for one in out]) - 16
    assert 5 < np.abs(moved).max() <= 0.2 * 33 + 0.01
    assert np.all(moved.std(axis=0) > 2)


def test_fill_colours_what_comes_in_from_outside():
    images = np.full((32, 8, 8, 1), 200, np.uint8)
    out = np.asarray(make_augment(AugmentOptions(translate=0.5, fill=20.0))(images, keys(32)))
    np.testing.assert_allclose(out.min(), 20, rtol=1e-5)
    edge = make_augment(AugmentOptions(translate=0.5))(images, keys(32))
    np.testing.assert_allclose(edge, 200, rtol=1e-5)


def test_elastic_bends_a_bar_by_at_most_its_pixels():
    images = np.repeat(bar(), 32, 0)
    out = np.asarray(make_augment(AugmentOptions(elastic=2, fill=0.0))(images, keys(32)))
    inner = out[:, 8:25, :, 0]
    path = (inner * np.arange(33)).sum(-1) / inner.sum(-1) - 16
    assert np.abs(path).max() <= 3
    assert path.std(axis=1).mean() > 0.3


def test_gamma_above_one_darkens_the_greys_and_keeps_black_and_white():
    ramp = np.linspace(0, 255, 16, dtype=np.float32).reshape(1, 4, 4, 1)
    out = np.asarray(make_augment(AugmentOptions(gamma=(2.0, 2.0)))(ramp, keys(1)))
    np.testing.assert_allclose(out, 255 * (ramp / 255) ** 2, rtol=1e-5)


def test_invert_exchanges_dark_and_bright():
    images = pictures(2)
    out = make_augment(AugmentOptions(invert=1.0))(images, keys(2))
    np.testing.assert_array_equal(out, 255.0 - images)


def test_brightness_adds_one_level_to_an_image():
    images = np.full((32, 6, 6, 3), 128, np.uint8)
    out = np.asarray(make_augment(AugmentOptions(brightness=0.2))(images, keys(32)))
    added = out - 128
    assert np.ptp(added, axis=(1, 2, 3)).max() == 0
    assert 30 < np.abs(added).max() <= 0.2 * 255


def test_contrast_keeps_the_mean():
    images = (pictures(32) // 2 + 64).astype(np.uint8)
    out = np.asarray(make_augment(AugmentOptions(contrast=0.3))(images, keys(32)))
    axes = (1, 2, 3)
    np.testing.assert_allclose(out.mean(axes), images.mean(axes), rtol=1e-4)
    ratio = out.std(axes) / images.std(axes)
    assert 0.69 < ratio.min() < 0.8 < 1.2 < ratio.max() < 1.31


def test_resolution_of_its_own_size_leaves_an_image_as_it_is():
    images = pictures(2, width=12)
    out = make_augment(AugmentOptions(resolution=(12, 12)))(images, keys(2))
    np.testing.assert_allclose(out, images, atol=1e-3)


def test_resolution_shrinks_to_some_side_of_the_range_and_grows_back():
    images = np.repeat(pictures(1, height=24, width=24), 24, axis=0)
    out = np.asarray(make_augment(AugmentOptions(resolution=(6, 8)))(images, keys(24)))
    shape = images.shape[1:]
    expected = []
    for side in (6, 7, 8):
        small = jax.image.resize(images[0].astype(np.float32), (side, side, 3), "linear")
        expected.append(jax.image.resize(small, shape, "linear"))
    errors = np.abs(out[:, None] - np.array(expected)).max(axis=(2, 3, 4))
    np.testing.assert_allclose(errors.min(axis=1), 0, atol=1e-2)
    assert set(errors.argmin(axis=1)) == {0, 1, 2}


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_blur_spreads_a_dot_by_its_sigma(sigma):
    image = np.zeros((1, 41, 41, 1), np.float32)
    image[0, 20, 20] = 255.0
    out = np.asarray(make_augment(AugmentOptions(blur=(sigma, sigma)))(image, keys(1)))[0]
    rows, columns = np.indices((41, 41)) - 20
    mass = out[..., 0] / 255
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-5)
    # A Gaussian sampled at whole pixels.
    np.testing.assert_allclose(
        [(mass * rows**2).sum(), (mass * columns**2).sum()], sigma**2, rtol=0.04
    )


def test_noise_is_normal_with_its_sigma_and_independent():
    images = np.full((8, 32, 32, 3), 128, np.uint8)
    out = np.asarray(make_augment(AugmentOptions(noise=10))(images, keys(8))) - 128
    assert abs(out.mean()) < 0.3
    np.testing.assert_allclose(out.std(), 10, rtol=0.02)
    np.testing.assert_allclose(np.mean(np.abs(out) < 10), 0.6827, atol=0.01)
    channels = out.reshape(-1, 3)
    neighbours = np.stack([out[:, :, :-1].ravel(), out[:, :, 1:].ravel()], -1)
    for pairs in (channels[:, :2], channels[:, 1:], neighbours):
        assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": (1.2, 0.8)}, "scale=(1.2, 0.8)"),
        ({"scale": (0.0, 1.0)}, "scale=(0, 1)"),
        ({"blur": (-1.0, 1.0)}, "blur=(-1, 1)"),
        ({"gamma": (0.0, 1.0)}, "gamma=(0, 1)"),
        ({"resolution": (9, 8)}, "resolution=(9, 8)"),
    ],
)
def test_range_that_makes_no_sense_is_a_config_error(options, said):
    with pytest.raises(ConfigError) as raised:
        AugmentOptions(**options)
    assert said in str(raised.value)


def test_every_bad_range_is_named_at_once():
    with pytest.raises(ConfigError, match=r"scale.*gamma.*blur"):
        AugmentOptions(scale=(2, 1), gamma=(2, 1), blur=(2, 1))


@pytest.mark.parametrize(
    ("name", "value"), [("flip", 1.5), ("rotate", -3), ("fill", "black"), ("shear", 90)]
)
def test_value_out_of_range_is_refused_by_the_config(name, value):
    adapter = TypeAdapter(AugmentOptions)
    with pytest.raises(ValidationError, match=name):
        adapter.validate_python({name: value})


def test_options_survive_the_config():
    plain = dataclasses.asdict(EVERYTHING)
    assert TypeAdapter(AugmentOptions).validate_python(plain) == EVERYTHING
