"""Every placement with every way to train: the same numbers and the same masks."""

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.data.augment import AugmentOptions
from jtl.data.mix import make_mix
from tests.engine.nets import batch_of, build

PLACEMENTS = {
    "pmap over 2": lambda: jtl.parallel.pmap(jax.devices()[:2]),
    "pmap over 8": lambda: jtl.parallel.pmap(),
    "mesh of 2 by 4": lambda: jtl.parallel.mesh(data=2, model=4),
    "micro-batches": lambda: jtl.parallel.single(),
}
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.02, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-3, weight_decay=0.1),
}
STEPS, CLASSES, SIZE = 10, 10, 8


def mixup():
    mix = make_mix(AugmentOptions(mixup=0.4), CLASSES)
    return {"prepare": mix}


# How the network is made, and what its step is told.
SETTINGS = {
    "dropout": ({"dropout_rate": 0.5, "drop_path_rate": 0.3}, dict),
    "mixup": ({}, mixup),
    "frozen backbone": ({"dropout_rate": 0.5}, lambda: {"freeze": "backbone"}),
    "full": ({}, dict),
}


@lru_cache
def bundled(setting):
    return jtl.load_model("resnet_mini", "glyphs", CLASSES, rng=1, **SETTINGS[setting][0])


def steps_of(setting, optimizer, dtype, *, placement=None, steps=STEPS, **options):
    """The losses of the first steps, alone on one device or as placed."""
    pretrained = bundled(setting)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), pretrained.variables)
    told = {**SETTINGS[setting][1](), **options}
    if placement == "micro-batches":
        told["accumulate"] = 4
    step, state = build(pretrained.model, variables, tx=OPTIMIZERS[optimizer](), **told)
    place = PLACEMENTS[placement]() if placement else jtl.parallel.single()
    step, state, losses = place.compile(step), place.put_state(state), []
    for seed in range(steps):
        # Padding lies unevenly: the first of eight devices has nothing else.
        batch = batch_of(
            16, CLASSES, SIZE, masked=(0, 1, 5, 9, 10 + seed % 5), dtype=dtype, seed=seed
        )
        state, metrics = step(state, place.put_batch(batch))
        losses.append(float(metrics["loss"]))
    return np.asarray(losses)


@lru_cache
def expected(setting, optimizer, dtype, stored):
    options = {"batch_norm": stored_statistics(setting)} if stored else {}
    return steps_of(setting, optimizer, dtype, steps=STEPS, **options)


def stored_statistics(setting):
    return "frozen" if setting == "frozen backbone" else "affine"


# Two cells of each placement for every commit, all by hand.
OFTEN = {("dropout", "sgd"), ("frozen backbone", "adamw")}
CELLS = [
    pytest.param(
        setting,
        optimizer,
        marks=pytest.mark.slow if (setting, optimizer) in OFTEN else pytest.mark.soak,
    )
    for setting in SETTINGS
    for optimizer in OPTIMIZERS
]


@pytest.mark.parametrize(("setting", "optimizer"), CELLS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_ten_steps_have_the_same_losses_everywhere(placement, setting, optimizer, x64):
    stored = placement == "micro-batches"
    options = {"batch_norm": stored_statistics(setting)} if stored else {}
    found = steps_of(setting, optimizer, np.float64, placement=placement, **options)
    alone = expected(setting, optimizer, np.float64, stored)
    assert len(set(np.round(alone, 6))) == STEPS
    np.testing.assert_allclose(found, alone, rtol=1e-9)


@pytest.mark.soak
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_first_step_in_float32_has_the_same_loss_everywhere(placement, setting):
    stored = placement == "micro-batches"
    options = {"batch_norm": stored_statistics(setting)} if stored else {}
    found = steps_of(setting, "sgd", np.float32, placement=placement, steps=1, **options)
    alone = first_alone(setting, stored)
    np.testing.assert_allclose(found, alone, rtol=1e-5)


@lru_cache
def first_alone(setting, stored):
    options = {"batch_norm": stored_statistics(setting)} if stored else {}
    return steps_of(setting, "sgd", np.float32, steps=1, **options)


class Masks(nn.Module):
    """Writes each example's dropout masks into the gradient of its own row of a table."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        place = x[:, 0, 0, 0].astype(jnp.int32)
        table = self.param("table", nn.initializers.zeros, (16, 64))
        ones = jnp.ones((x.shape[0], 32))
        wide = nn.Dropout(0.5, name="wide")(ones, deterministic=not train)
        path = nn.Dropout(0.3, broadcast_dims=(1,), name="path")(ones, deterministic=not train)
        return table[place] * jnp.concatenate([wide, path], axis=-1)


def masks_of(placement):
    net, accumulate = Masks(), 4 if placement == "micro-batches" else 1
    batch = {
        "image": np.broadcast_to(np.arange(16.0)[:, None, None, None], (16, 1, 1, 3)),
        "label": np.zeros(16, np.int32),
    }
    variables = {"params": {"head": jnp.zeros(1), "table": jnp.zeros((16, 64))}}
    step, state = build(
        net, variables, accumulate=accumulate, loss=lambda logits, batch: logits.sum(-1)
    )
    place = PLACEMENTS[placement]() if placement else jtl.parallel.single()
    step, placed = place.compile(step), place.put_state(state)
    placed, _ = step(placed, place.put_batch(batch))
    return np.asarray(place.get_state(placed).params["table"]) != 0


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_masks_are_the_same_bits_everywhere(placement):
    alone, found = masks_of(None), masks_of(placement)
    assert 0.4 < alone[:, :32].mean() < 0.6
    assert set(alone[:, 32:].sum(1)) == {0, 32}
    assert len({row.tobytes() for row in alone}) == 16
    np.testing.assert_array_equal(found, alone)
