"""RandAugment and TrivialAugment: each operation as Pillow has it, drawn by the key alone."""

import dataclasses
from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jtl.data.augment import AugmentOptions, RandAugmentOptions, make_augment
from jtl.data.augment.layer import OPERATIONS, _passes, apply_layer
from jtl.data.augment.policies import RANDAUGMENT, TRIVIALAUGMENT, amounts
from jtl.errors import ConfigError

HEIGHT, WIDTH = 22, 26
FACTORS = ("brightness", "contrast", "color", "sharpness")
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
POLICIES = {
    "randaugment": AugmentOptions(randaugment=RandAugmentOptions(layers=2, magnitude=20)),
    "trivialaugment": AugmentOptions(trivialaugment=True, fill=30.0),
}


def picture(seed=0, height=HEIGHT, width=WIDTH):
    """Smooth colours with some noise and a narrow range of levels, uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(20, 220, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = generator.integers(-15, 16, smooth.shape)
    return np.clip(smooth + noise, 12, 240).astype(np.uint8)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def drawn_amounts(name, shape=(HEIGHT, WIDTH)):
    """Every amount that either policy may draw for an operation, both directions."""
    own = []
    for ranges in (RANDAUGMENT, TRIVIALAUGMENT):
        strengths = amounts(ranges, shape)[OPERATIONS.index(name)]
        if name in FACTORS:
            own += [*(1 + strengths), *(1 - strengths)]
        else:
            own += [*strengths, *(-strengths if name in MOVES else ())]
    return np.array(sorted(set(map(float, own))), np.float32)


@jax.jit
def layers(images, operations, strengths):
    return jax.vmap(lambda i, o, a: apply_layer(i, o, a, 7.0))(images, operations, strengths)


@pytest.fixture(scope="module")
def results():
    """By operation: pictures, amounts, and what a layer makes of them."""
    names, images, strengths = [], [], []
    for name in OPERATIONS:
        for seed, amount in enumerate(drawn_amounts(name)):
            names.append(name)
            images.append(picture(seed % 7))
            strengths.append(amount)
    operations = np.array([OPERATIONS.index(name) for name in names], np.int32)
    images, strengths = np.stack(images), np.array(strengths, np.float32)
    out = np.asarray(layers(images, operations, strengths))
    of = {name: np.array(names) == name for name in OPERATIONS}
    return {name: (images[own], strengths[own], out[own]) for name, own in of.items()}


def by_pillow(name, image, amount):
    """The published definition of an operation on levels."""
    original = Image.fromarray(image)
    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "color": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhancers:
        return np.asarray(enhancers[name](original).enhance(float(amount)))
    others = {
        "identity": lambda: original,
        "posterize": lambda: ImageOps.posterize(original, int(amount)),
        "solarize": lambda: ImageOps.solarize(original, float(amount)),
        "autocontrast": lambda: ImageOps.autocontrast(original),
        "equalize": lambda: ImageOps.equalize(original),
    }
    return np.asarray(others[name]())


def source_places(name, amount):
    """Row and column that each pixel comes from, as Pillow's affine transform counts them."""
    row, column = np.indices((HEIGHT, WIDTH)) + 0.5
    angle = np.radians(amount) if name == "rotate" else 0.0
    matrix = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, amount, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount),
    }.get(name)
    if matrix is None:
        cos, sin = np.cos(angle), np.sin(angle)
        middle = WIDTH / 2, HEIGHT / 2
        left = middle[0] - cos * middle[0] - sin * middle[1]
        top = middle[1] + sin * middle[0] - cos * middle[1]
        matrix = (cos, sin, left, -sin, cos, top)
    a, b, c, d, e, f = (float(value) for value in matrix)
    rows, columns = d * column + e * row + f - 0.5, a * column + b * row + c - 0.5
    return matrix, rows, columns


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in MOVES])
def test_an_operation_on_levels_is_that_of_pillow(results, name):
    images, strengths, out = results[name]
    expected = np.stack([by_pillow(name, *each) for each in zip(images, strengths)])
    # Equal but where a level falls on a boundary that Pillow meets in another precision.
    difference = np.abs(out.astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 2e-3


@pytest.mark.parametrize("name", MOVES)
def test_a_move_is_that_of_pillow_inside_the_image(results, name):
    for image, amount, own in zip(*results[name]):
        matrix, rows, columns = source_places(name, amount)
        moved = Image.fromarray(image).transform(
            (WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        within = (rows > 0.01) & (rows < HEIGHT - 1.01)
        within &= (columns > 0.01) & (columns < WIDTH - 1.01)
        # Pillow cuts fractions of a level off where a layer rounds.
        difference = np.abs(own.astype(int) - np.asarray(moved))[within]
        assert difference.max(initial=0) <= 1
        outside = (rows < -1.01) | (rows > HEIGHT + 0.01)
        outside |= (columns < -1.01) | (columns > WIDTH + 0.01)
        assert (own[outside] == 7).all()


def test_the_least_magnitude_does_nothing():
    for ranges in (RANDAUGMENT, TRIVIALAUGMENT):
        least = amounts(ranges, (HEIGHT, WIDTH))[:, 0]
        for name, amount in zip(OPERATIONS, least):
            expected = {"posterize": 8, "solarize": 256}.get(name, 0)
            assert amount == expected, name


@pytest.mark.parametrize("channels", [1, 3])
def test_all_examples_at_once_are_as_one_after_another(channels):
    rng = np.random.default_rng(3)
    images = np.stack([picture(seed)[..., :channels] for seed in range(28)])
    operations = np.arange(28, dtype=np.int32) % 14
    strengths = np.array([rng.choice(drawn_amounts(OPERATIONS[own])) for own in operations])
    at_once = jax.jit(jax.vmap(lambda *own: _passes(*own, fill="edge")))
    in_turn = jax.jit(jax.vmap(lambda *own: apply_layer(*own, "edge")))
    given = images, operations, strengths
    difference = np.abs(np.asarray(at_once(*given)).astype(int) - np.asarray(in_turn(*given)))
    # Products and sums are fused in another way, so that a half may round to either side.
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_equalize_keeps_levels_within_range_where_its_step_is_one():
    # So few pixels, most of them of the brightest level, that the sum below may pass 255 steps.
    image = np.zeros((24, 24, 3), np.uint8)
    image.reshape(-1, 3)[:, :] = (np.arange(576) * 255 // 575)[:, None]
    image.reshape(-1, 3)[500:] = 254
    own = layers(image[None], np.array([OPERATIONS.index("equalize")]), np.zeros(1, np.float32))
    expected = np.asarray(ImageOps.equalize(Image.fromarray(image)))
    np.testing.assert_array_equal(own[0], expected)


@pytest.mark.parametrize("value", [0, 130, 255])
def test_an_image_of_one_colour_stays_one(value):
    image = np.full((14, 9, 9, 3), value, np.uint8)
    strengths = amounts(RANDAUGMENT, (9, 9))[:, 5]
    in_range = np.asarray(
        jax.jit(jax.vmap(lambda *own: apply_layer(*own, "edge")))(image, np.arange(14), strengths)
    )
    assert np.ptp(in_range, axis=(1, 2, 3)).max() == 0
    kept = [OPERATIONS.index(name) for name in ("identity", "autocontrast", "equalize", *MOVES)]
    assert (in_range[kept] == value).all()


def candidates(image, strengths):
    """What each operation, either way, may make of an image."""
    found = {}
    for name, way in product(OPERATIONS, (1, -1)):
        if name not in (*FACTORS, *MOVES) and way < 0:
            continue
        amount = way * strengths[OPERATIONS.index(name)] + (name in FACTORS)
        found[name, way] = amount
    operations = np.array([OPERATIONS.index(name) for name, _ in found], np.int32)
    images = np.repeat(image[None], len(found), axis=0)
    made = np.asarray(layers(images, operations, np.array(list(found.values()), np.float32)))
    return dict(zip(found, made))


def test_each_operation_and_direction_is_drawn_as_often_as_another():
    image, count = picture(2), 460
    options = AugmentOptions(randaugment=RandAugmentOptions(layers=1, magnitude=21), fill=7.0)
    out = jax.jit(make_augment(options))(np.repeat(image[None], count, 0), keys(count))
    made = candidates(image, amounts(RANDAUGMENT, image.shape)[:, 21])
    texts = {own.tobytes(): which for which, own in made.items()}
    assert len(texts) == len(made) == 23
    drawn = [texts[own.tobytes()] for own in np.asarray(out).astype(np.uint8)]
    often = {name: sum(which[0] == name for which in drawn) for name in OPERATIONS}
    # Five standard deviations of a binomial with probability 1/14 and 460 draws are 28.
    assert all(5 <= own <= 61 for own in often.values()), often
    assert set(drawn) == set(made)


def test_layers_follow_one_another():
    image, count = picture(2), 120
    one, two = (
        jax.jit(make_augment(AugmentOptions(randaugment=RandAugmentOptions(layers=n), fill=7.0)))
        for n in (1, 2)
    )
    images = np.repeat(image[None], count, 0)
    first = np.asarray(one(images, keys(count))).astype(np.uint8)
    second = np.asarray(two(images, keys(count))).astype(np.uint8)
    strengths = amounts(RANDAUGMENT, image.shape)[:, 9]
    for start, own in zip(first[:12], second[:12]):
        assert any((own == made).all() for made in candidates(start, strengths).values())
    assert np.mean([(a != b).any() for a, b in zip(first, second)]) > 0.7


def test_trivialaugment_draws_the_whole_range_of_magnitudes():
    image, count = picture(2), 900
    out = jax.jit(make_augment(POLICIES["trivialaugment"]))(
        np.repeat(image[None], count, 0), keys(count, 5)
    )
    distinct = {own.tobytes() for own in np.asarray(out).astype(np.uint8)}
    # 9 operations of 31 magnitudes either way, and 7 bits, 31 thresholds and 3 fixed ones.
    assert 300 < len(distinct) < 9 * 61 + 7 + 31 + 3


def test_draws_are_the_same_on_any_devices_and_in_any_company():
    images = np.stack([picture(seed) for seed in range(16)])
    own = keys(16)
    augment = make_augment(
        dataclasses.replace(POLICIES["randaugment"], flip=0.5, erase=0.5, erase_fill="noise")
    )
    whole = np.asarray(jax.jit(augment)(images, own))
    parts = jax.pmap(augment)(images.reshape(8, 2, HEIGHT, WIDTH, 3), own.reshape(8, 2))
    np.testing.assert_array_equal(np.asarray(parts).reshape(images.shape), whole)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    shared = jax.jit(augment)(jax.device_put(images, spread), jax.device_put(own, spread))
    np.testing.assert_array_equal(shared, whole)
    order = np.array([5, 11, 2])
    np.testing.assert_array_equal(jax.jit(augment)(images[order], own[order]), whole[order])


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_keep_dtype_and_range_and_compile_once(policy, x64):
    augment = jax.jit(make_augment(POLICIES[policy]))
    images = np.stack([picture(seed) for seed in range(8)])
    for seed in range(3):
        out = augment(images, keys(8, seed))
        chex.assert_type(out, jnp.float32)
        assert 0 <= out.min() < out.max() <= 255
        assert (out == jnp.round(out)).all()
    assert augment._cache_size() == 1


def test_both_policies_at_once_and_impossible_ones_are_refused():
    with pytest.raises(ConfigError, match=r"scale.*randaugment and trivialaugment .*; set one"):
        AugmentOptions(randaugment=RandAugmentOptions(), trivialaugment=True, scale=(2, 1))
    with pytest.raises(ConfigError, match=r"layers=0 .*magnitude=31 must lie in 0..30"):
        RandAugmentOptions(layers=0, magnitude=31)


def test_images_of_two_channels_are_refused_by_a_policy():
    with pytest.raises(ConfigError, match="these have 2 channels"):
        make_augment(POLICIES["trivialaugment"])(np.zeros((2, 8, 8, 2), np.uint8), keys(2))
