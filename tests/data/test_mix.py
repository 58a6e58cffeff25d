"""Mixup and CutMix: what each pair shares, wherever it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.augment import AugmentOptions
from jtl.data.mix import make_mix
from jtl.errors import ConfigError

CLASSES = 5
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(8, 6, 6, 3)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, CLASSES, 8))
ALL = jnp.ones(8, bool)
OPTIONS = {
    "mixup": AugmentOptions(mixup=0.4),
    "cutmix": AugmentOptions(cutmix=1.0),
    "both": AugmentOptions(mixup=0.4, cutmix=1.0),
}
MIXES = {name: jax.jit(make_mix(options, CLASSES)) for name, options in OPTIONS.items()}


def keys_of(seed):
    return jax.random.split(jax.random.key(seed), 8)


def mixed(kind, seed=0, images=IMAGES, mask=ALL, labels=LABELS):
    batch = {"image": images, "label": labels, "mask": mask}
    return MIXES[kind](batch, keys_of(seed))


@pytest.mark.parametrize("kind", OPTIONS)
@given(st.integers(0, 1000))
def test_nothing_of_a_pair_is_lost(kind, seed):
    out = mixed(kind, seed)
    one_hot = jax.nn.one_hot(LABELS, CLASSES)
    for given_, got in ((IMAGES, out["image"]), (one_hot, out["label"])):
        pairs, got_pairs = (np.asarray(a, np.float64).reshape(4, 2, -1) for a in (given_, got))
        np.testing.assert_allclose(got_pairs.sum(1), pairs.sum(1), atol=1e-5)
    np.testing.assert_allclose(out["label"].sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", OPTIONS)
def test_labels_are_shared_as_pixels_are(kind):
    flat = jnp.broadcast_to(jnp.arange(8.0)[:, None, None, None], (8, 6, 6, 3))
    out = mixed(kind, 3, images=flat, labels=jnp.arange(8) % 2)
    # Each pair has the values 2k and 2k + 1 and the labels 0 and 1.
    share = out["image"].mean((1, 2, 3)) - 2 * (jnp.arange(8) // 2)
    np.testing.assert_allclose(out["label"][:, 1], share, atol=1e-5)
    assert len(set(np.round(np.asarray(share), 4).tolist())) > 3


def test_cutmix_takes_whole_pixels_from_one_rectangle():
    out = np.asarray(mixed("cutmix", 5)["image"])
    for first in range(0, 8, 2):
        own = np.all(out[first] == np.asarray(IMAGES[first]), axis=-1)
        other = np.all(out[first] == np.asarray(IMAGES[first + 1]), axis=-1)
        assert (own ^ other).all()
        rows, columns = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
        assert other[np.ix_(rows, columns)].all()


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_pair_with_padding_stays_as_it_is(kind):
    mask = ALL.at[3].set(False)
    images = IMAGES.at[3].set(jnp.nan)
    out = mixed(kind, 1, images=images, mask=mask)
    np.testing.assert_array_equal(out["image"][2], IMAGES[2])
    assert out["label"][2, LABELS[2]] == 1
    assert np.isfinite(np.asarray(out["image"])[[0, 1, 2, 4, 5, 6, 7]]).all()


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_pair_is_mixed_the_same_in_any_company(kind):
    whole = mixed(kind, 7)
    part = make_mix(OPTIONS[kind], CLASSES)(
        {"image": IMAGES[4:6], "label": LABELS[4:6], "mask": ALL[4:6]}, keys_of(7)[4:6]
    )
    np.testing.assert_array_equal(part["image"], whole["image"][4:6])
    np.testing.assert_array_equal(part["label"], whole["label"][4:6])


def test_an_odd_part_is_refused():
    batch = {"image": IMAGES[:3], "label": LABELS[:3], "mask": ALL[:3]}
    with pytest.raises(ConfigError, match="examples of a device, which are 3; set a batch size"):
        make_mix(OPTIONS["mixup"], CLASSES)(batch, keys_of(0)[:3])


def test_a_label_beyond_the_classes_is_not_blended_into_nothing():
    out = mixed("mixup", labels=LABELS.at[2].set(CLASSES))
    assert np.isnan(out["label"][2]).all()
