"""Metrics of masked batches over eight devices, against scikit-learn on the same predictions."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

import jtl
from jtl.engine.evaluation import make_eval_step, make_score_step
from jtl.engine.metrics import summarize, total_of
from jtl.training.measure.predictions import Predictions
from jtl.training.measure.tally import Tally

BATCH, CLASSES = 16, 4
NAMES = tuple("abcd")
PLACEMENTS = {
    "single": jtl.parallel.single,
    "pmap": jtl.parallel.pmap,
    "mesh": jtl.parallel.mesh,
}


def net(variables, images, train, rngs):
    """Its logits are the image's first row."""
    return images[:, 0, :CLASSES, 0] * variables["params"]["scale"], {}


VARIABLES = {"params": {"scale": jnp.float32(1.5)}, "batch_stats": {}}


@lru_cache
def compiled(placement, several):
    """Both steps on a placement's devices, compiled once for all that hypothesis draws."""
    place = PLACEMENTS[placement]()
    assert len(place.devices) == (1 if placement == "single" else 8)
    evaluates = place.compile(make_eval_step(net, several=several))
    scores = place.compile(make_score_step(net, several=several))
    return place, place.put_state(VARIABLES), evaluates, scores


def batches(images, label, order):
    """Whole batches in which padding stands anywhere."""
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        real = rows >= 0
        own = np.where(real, rows, 0)
        noise = np.where(real[:, None, None, None], images[own], np.nan)
        yield {"image": noise.astype(np.float32), "label": label[own], "mask": real}, rows


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(2, 40))
def test_metrics_on_any_devices_are_those_of_scikit_learn(placement, several, seed, count):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 1, CLASSES, 1)).astype(np.float32)
    single = rng.integers(0, CLASSES, count).astype(np.int32)
    many = (rng.random((count, CLASSES)) < 0.4).astype(np.float32)
    label = many if several else single
    slots = -(-count // BATCH) * BATCH + BATCH  # a batch's worth of padding, or more
    order = rng.permutation(np.concatenate([np.arange(count), np.full(slots - count, -1)]))
    place, variables, evaluates, scores = compiled(placement, several)
    sums, logits = [], np.full((count, CLASSES), np.nan, np.float32)
    for batch, rows in batches(images, label, order):
        sums.append(evaluates(variables, place.put_batch(batch)))
        own, mask = jax.device_get(scores(variables, place.put_batch(batch)))
        assert (mask == (rows >= 0)).all()
        logits[rows[mask]] = own[mask]
    np.testing.assert_allclose(logits, 1.5 * images[:, 0, :, 0], rtol=1e-6)
    nothing = np.zeros(count, np.int32)
    said = Predictions(logits=logits, label=label, example=nothing, name=nothing.astype(np.str_),
                       classes=NAMES, several=several)  # fmt: skip
    expected = expectations(said.probabilities(), label, several)
    for found in (summarize(total_of(sums)), Tally(said).metrics()):
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def expectations(probabilities, label, several):
    if several:
        chosen = probabilities >= 0.5
        common = {"accuracy": oracle.accuracy_score(label, chosen),
                  "hamming_loss": oracle.hamming_loss(label, chosen),
                  "brier": ((probabilities - label) ** 2).mean()}  # fmt: skip
        labels = None
    else:
        chosen, labels = probabilities.argmax(axis=1), range(CLASSES)
        common = {"accuracy": oracle.accuracy_score(label, chosen),
                  "log_loss": oracle.log_loss(label, probabilities, labels=labels),
                  "balanced_accuracy": np.mean([(chosen[label == k] == k).mean()
                                                for k in np.unique(label)])}  # fmt: skip
        labels = np.union1d(label, chosen)
    for kind, average in (("", "macro"), ("_micro", "micro"), ("_weighted", "weighted")):
        for name in ("precision", "recall", "f1"):
            score = getattr(oracle, f"{name}_score")
            common[name + kind] = score(
                label, chosen, average=average, labels=labels, zero_division=0
            )
    return common
