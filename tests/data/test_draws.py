"""What an example looks like in an epoch: a function of (seed, epoch, example) and nothing else."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.data.augment import AugmentOptions, make_augment
from jtl.data.augment.options import RandAugmentOptions
from jtl.data.crop import CropOptions
from jtl.data.pipeline import TrainOrder, train_batches
from jtl.data.reader import Reader
from jtl.rng import base_key, view_keys
from tests.data.photos import photo_folder

AUGMENT = AugmentOptions(flip=0.5, randaugment=RandAugmentOptions(), saturation=0.4, erase=0.5)
SLOTS = 24  # that the batches of any size are padded to, so that one program serves all


@jax.jit
def augmented(images, views, examples, rng):
    return make_augment(AUGMENT)(images, view_keys(rng, "augment", views, examples))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return photo_folder(tmp_path_factory.mktemp("photos"), count=10)


def seen(source, seed, batch_size, start, shares, threads):
    """Each (epoch, example) of three epochs' steps from `start` on, as the network is given it."""
    reader = Reader(
        source=source, size=12, fit=lambda image: image, crop=CropOptions(), seed=seed,
        threads=threads,
    )  # fmt: skip
    order = TrainOrder(indices=np.arange(10), batch_size=batch_size, seed=seed)
    rows = batch_size // shares
    found = {}
    for share in (slice(n * rows, (n + 1) * rows) for n in range(shares)):
        for batch in train_batches(reader, order, start=start, stop=order.steps(3), share=share):
            count = len(batch["example"])
            padded = [
                np.pad(batch[name], [(0, SLOTS - count)] + [(0, 0)] * (batch[name].ndim - 1))
                for name in ("image", "view", "example")
            ]
            images = np.asarray(augmented(*padded, base_key(seed)))[:count]
            for image, view, example in zip(images, batch["view"], batch["example"]):
                assert (int(view), int(example)) not in found
                found[int(view), int(example)] = image
    return found


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([0, 5]),
    st.sampled_from([(2, 2), (4, 1), (4, 4), (6, 3), (24, 1)]),
    st.integers(0, 1),
    st.integers(1, 2),
)
def test_the_same_whatever_the_batch_the_shares_the_start_and_the_threads(
    source, seed, sizes, start, threads
):
    expected = seen(source, seed, 1, 0, 1, 1)
    assert set(expected) == {(epoch, example) for epoch in range(3) for example in range(10)}
    found = seen(source, seed, sizes[0], start, sizes[1], threads)
    for key in found.keys() & expected.keys():
        np.testing.assert_array_equal(found[key], expected[key])


def test_other_seeds_and_epochs_look_different(source):
    first, other = seen(source, 0, 5, 0, 1, 1), seen(source, 1, 5, 0, 1, 1)
    assert all((first[key] != other[key]).any() for key in first)
    assert all((first[0, n] != first[1, n]).any() for n in range(10))
