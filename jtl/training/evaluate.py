"""Evaluation and prediction over whole splits: every example once, whatever the batch size."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jtl.data.sources.protocol import Arrays
from jtl.engine.metrics import summarize
from jtl.engine.parallel import Placement


def evaluate(
    place: Placement, step: Any, variables: Any, batches: Iterable[Arrays]
) -> dict[str, float]:
    """The metrics of all unmasked examples.

    Args:
        place: where the batches go.
        step: an evaluation step that `place` compiled.
        variables: as `place.put_state` gave them.
        batches: padded and masked, all of one shape.
    """
    total = None
    for batch in batches:
        sums = step(variables, place.put_batch(batch))
        total = sums if total is None else jax.tree.map(lambda a, b: a + b, total, sums)
    return summarize(total) if total is not None else {}


def predict(
    place: Placement, step: Any, variables: Any, batches: Iterable[Arrays], count: int
) -> np.ndarray:
    """The probabilities of all examples, in order: float `[count, classes]`.

    Args:
        place: where the batches go.
        step: a prediction step that `place` compiled.
        variables: as `place.put_state` gave them.
        batches: all of one shape, padded at the end of the last.
        count: how many examples there are.
    """
    rows = []
    for batch in batches:
        logits = np.asarray(step(variables, place.put_batch(batch)))
        rows.append(np.asarray(jax.nn.softmax(logits, axis=-1)))
    return np.concatenate(rows)[:count]
