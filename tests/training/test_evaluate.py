"""Evaluation and prediction over a split: every example once, in order, at any batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.data.pipeline import eval_batches
from jtl.engine.evaluation import make_eval_step, make_predict_step
from jtl.training.evaluate import evaluate, predict
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
    metrics = placed(jtl.parallel.single(), batch_size, make_eval_step, evaluate)
    logits, label = expected_logits(), SOURCE.labels[SPLIT]
    assert metrics["accuracy"] == pytest.approx(np.mean(np.argmax(logits, -1) == label))
    losses = jtl.losses.cross_entropy()(logits, {"label": label})
    assert metrics["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_metrics_are_the_same_on_eight_devices():
    alone = placed(jtl.parallel.single(), 4, make_eval_step, evaluate)
    for place in (jtl.parallel.pmap(), jtl.parallel.mesh()):
        assert placed(place, 8, make_eval_step, evaluate) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("batch_size", [3, 16])
def test_predictions_are_probabilities_in_the_order_of_the_split(batch_size):
    rows = placed(jtl.parallel.single(), batch_size, make_predict_step, predict, len(SPLIT))
    assert rows.shape == (EXAMPLES, 3)
    np.testing.assert_allclose(rows, jax.nn.softmax(expected_logits(), axis=-1), rtol=1e-5)


def test_nothing_to_evaluate_has_no_metrics():
    place = jtl.parallel.single()
    assert evaluate(place, None, VARIABLES, iter(())) == {}
