"""Evaluation and prediction over a split: every example once, in order, at any batch size."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

import jtl
from jtl.data.pipeline import eval_batches
from jtl.engine.evaluation import make_eval_step, make_score_step
from jtl.training.evaluate import evaluate, score
from tests.training.runs import EXAMPLES, READER, SOURCE, VARIABLES, linear

SPLIT = np.arange(EXAMPLES)[::-1]


def prepare(batch, keys):
    return {"image": batch["image"].astype(jnp.float32) / 255}


def placed(place, batch_size, make, function, *more):
    step = place.compile(make(linear, prepare=prepare))
    batches = eval_batches(READER, SPLIT, batch_size)
    return function(place, step, place.put_state(VARIABLES), batches, *more)


def expected_logits():
    images = jnp.asarray(SOURCE.images[SPLIT], jnp.float32) / 255
    return linear(VARIABLES, images, False, {})[0]


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
def test_metrics_do_not_depend_on_the_batch_size(batch_size):
    metrics = placed(jtl.parallel.single(), batch_size, make_eval_step, evaluate).metrics
    logits, label = expected_logits(), SOURCE.labels[SPLIT]
    assert metrics["accuracy"] == pytest.approx(np.mean(np.argmax(logits, -1) == label))
    losses = jtl.losses.cross_entropy()(logits, {"label": label})
    assert metrics["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_metrics_are_the_same_on_eight_devices():
    alone = placed(jtl.parallel.single(), 4, make_eval_step, evaluate)
    truth, guess = SOURCE.labels[SPLIT], np.argmax(expected_logits(), -1)
    expected = confusion_matrix(truth, guess, labels=range(len(SOURCE.classes)))
    for place in (jtl.parallel.pmap(), jtl.parallel.mesh()):
        spread = placed(place, 8, make_eval_step, evaluate)
        assert spread.metrics == pytest.approx(alone.metrics, rel=1e-5)
        assert (spread.confusion == expected).all()


@pytest.mark.parametrize("batch_size", [3, 16])
def test_scores_are_logits_in_the_order_of_the_split(batch_size):
    pairs = list(placed(jtl.parallel.single(), batch_size, make_score_step, score))
    assert {len(logits) for logits, _ in pairs} == {batch_size}
    mask = np.concatenate([own for _, own in pairs])
    np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(EXAMPLES))
    rows = np.concatenate([own for own, _ in pairs])[mask]
    np.testing.assert_allclose(rows, expected_logits(), rtol=1e-5, atol=1e-6)


def test_nothing_to_evaluate_has_no_metrics():
    place = jtl.parallel.single()
    assert evaluate(place, None, VARIABLES, iter(())).metrics == {}
