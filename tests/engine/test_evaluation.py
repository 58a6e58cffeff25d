"""Evaluation and prediction steps: every unmasked example once, in order, wherever they run."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.engine.evaluation import make_predict_step
from tests.engine.nets import Plain, batch_of, variables_of

NET = Plain()
PLACEMENTS = {
    "single": lambda: jtl.parallel.single(),
    "pmap": lambda: jtl.parallel.pmap(),
    "mesh": lambda: jtl.parallel.mesh(),
}


@lru_cache
def variables():
    return variables_of(NET)


def add(*sums):
    return jax.tree.map(lambda *leaves: sum(leaves), *sums)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_sums_of_padded_parts_are_those_of_the_whole(placement):
    whole = batch_of(24)
    step = jtl.make_eval_step(NET)
    expected = jax.jit(step)(variables(), whole)
    place = PLACEMENTS[placement]()
    compiled, put = place.compile(step), place.put_state(variables())
    parts = [{k: v[:16] for k, v in whole.items()}]
    parts.append({k: np.concatenate([v[16:], v[:8]]) for k, v in whole.items()})
    parts[1]["mask"] = np.arange(16) < 8
    total = add(*(compiled(put, place.put_batch(part)) for part in parts))
    assert total["count"] == 24
    np.testing.assert_array_equal(total["confusion"], expected["confusion"])
    for name, value in expected.items():
        np.testing.assert_allclose(total[name], value, rtol=1e-5, err_msg=name)


def test_evaluation_draws_nothing_and_keeps_statistics():
    batch = batch_of()
    sums = jax.jit(jtl.make_eval_step(NET))(variables(), batch)
    logits = NET.apply(variables(), batch["image"])
    losses = jtl.losses.cross_entropy()(logits, batch)
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)
    assert sums["correct"] == np.sum(np.argmax(logits, -1) == batch["label"])


def test_evaluation_without_a_mask_counts_all():
    batch = batch_of()
    del batch["mask"]
    assert jax.jit(jtl.make_eval_step(NET))(variables(), batch)["count"] == 16


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_predictions_come_in_the_order_of_the_batch(placement):
    batch = batch_of()
    place = PLACEMENTS[placement]()
    step = place.compile(make_predict_step(NET))
    logits = step(place.put_state(variables()), place.put_batch(batch))
    assert logits.shape == (16, 4)
    np.testing.assert_allclose(logits, NET.apply(variables(), batch["image"]), atol=1e-5)


def test_predictions_of_half_precision_come_in_single():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables())
    batch = batch_of(dtype=jnp.bfloat16)
    assert jax.jit(make_predict_step(NET))(half, batch).dtype == jnp.float32


def test_prepare_is_given_no_keys():
    seen = []

    def prepare(batch, keys):
        seen.append(keys)
        return {"image": batch["image"] * 0}

    batch = batch_of()
    logits = jax.jit(make_predict_step(NET, prepare=prepare))(variables(), batch)
    jax.jit(jtl.make_eval_step(NET, prepare=prepare))(variables(), batch)
    assert seen == [None, None]
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[:1], logits.shape))
