"""Random erasing: how often, how large, and what covers it."""

import jax
import numpy as np
import pytest

from jtl.data.augment import AugmentOptions, make_augment
from jtl.errors import ConfigError

COUNT, HEIGHT, WIDTH = 300, 24, 20


def erased(seed=0, value=50, **options):
    """Images of one level, what erasing makes of them, and where it covered."""
    images = np.full((COUNT, HEIGHT, WIDTH, 3), value, np.uint8)
    images[..., 1] += 40
    own = jax.random.split(jax.random.key(seed), COUNT)
    out = np.asarray(jax.jit(make_augment(AugmentOptions(**options)))(images, own))
    return images, out, (out != images).any(axis=-1)


def test_a_rectangle_of_the_area_and_ratio_is_covered_as_often_as_asked():
    _, out, covered = erased(erase=0.7, erase_area=(0.1, 0.3), erase_ratio=(0.5, 2.0))
    hit = covered.any(axis=(1, 2))
    # 0.7 with five standard deviations of 300 draws.
    assert 0.56 < hit.mean() < 0.84
    tall, wide = covered[hit].any(axis=2).sum(axis=1), covered[hit].any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(covered[hit].sum(axis=(1, 2)), tall * wide)
    # Sides are rounded to whole pixels.
    area = np.array([(tall - 0.5) * (wide - 0.5), (tall + 0.5) * (wide + 0.5)]) / HEIGHT / WIDTH
    assert (area[0] <= 0.3).all()
    assert (area[1] >= 0.1).all()
    assert ((tall - 0.5) / (wide + 0.5) <= 2).all()
    assert ((tall + 0.5) / (wide - 0.5) >= 0.5).all()
    assert (out[covered] == 128).all()
    ever = covered.any(axis=0)
    assert all(side.any() for side in (ever[0], ever[-1], ever[:, 0], ever[:, -1]))


def test_the_mean_of_each_channel_covers():
    images, out, covered = erased(erase=1.0, erase_fill="mean", noise=0.0)
    np.testing.assert_allclose(out, images, atol=1e-4)
    assert not covered.all()


def test_noise_covers_with_levels_of_the_whole_range():
    _, out, covered = erased(erase=1.0, erase_fill="noise", erase_area=(0.2, 0.3))
    levels = out[covered]
    np.testing.assert_allclose(levels.mean(axis=0), 127.5, atol=2)
    np.testing.assert_allclose(levels.std(axis=0), 73.9, atol=1)
    correlation = np.corrcoef(levels.T)
    assert np.abs(correlation - np.eye(3)).max() < 0.03


def test_nothing_is_covered_where_no_rectangle_fits():
    _, _, covered = erased(erase=1.0, erase_area=(0.9, 1.0), erase_ratio=(9.0, 10.0))
    assert not covered.any()


def test_the_whole_image_may_be_covered():
    ratio = HEIGHT / WIDTH
    _, _, covered = erased(erase=1.0, erase_area=(1.0, 1.0), erase_ratio=(ratio, ratio))
    assert covered.all()


def test_every_bad_range_of_erasing_is_named():
    with pytest.raises(ConfigError, match=r"erase_area=\(0.5, 2\).*erase_ratio=\(0, 1\)"):
        AugmentOptions(erase_area=(0.5, 2.0), erase_ratio=(0.0, 1.0))
