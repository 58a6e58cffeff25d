"""Evaluation and prediction over whole splits: every example once, whatever the batch size."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jtl.data.sources.protocol import Arrays
from jtl.engine.metrics import summarize, total_of
from jtl.engine.parallel import Placement


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What the examples of a split sum up to.

    Attributes:
        metrics: by name; empty without an example.
        confusion: int `[true, predicted]`, where every example has one class.
    """

    metrics: Mapping[str, float]
    confusion: np.ndarray | None = None


def evaluation_of(total: Mapping[str, Any]) -> Evaluation:
    """The metrics and the confusion matrix of metric sums; nothing of none."""
    if not total:
        return Evaluation(metrics={})
    counts = np.asarray(total["confusion"]) if "confusion" in total else None
    return Evaluation(metrics=summarize(total), confusion=counts)


def evaluate(
    place: Placement, step: Any, variables: Any, batches: Iterable[Arrays]
) -> "Evaluation":
    """What all unmasked examples sum up to.

    Args:
        place: where the batches go.
        step: an evaluation step that `place` compiled.
        variables: as `place.put_state` gave them.
        batches: padded and masked, all of one shape.
    """
    total = total_of(step(variables, place.put_batch(batch)) for batch in batches)
    return evaluation_of(total or {})


def score(
    place: Placement, step: Any, variables: Any, batches: Iterable[Arrays]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The logits and the mask of each global batch, in order.

    Args:
        place: where the batches go.
        step: a scoring step that `place` compiled.
        variables: as `place.put_state` gave them.
        batches: padded and masked, all of one shape.
    """
    pending = None
    for batch in batches:
        scored = step(variables, place.put_batch(batch))
        # One batch is computed while the one before is fetched.
        if pending is not None:
            yield _fetched(pending)
        pending = scored
    if pending is not None:
        yield _fetched(pending)


def _fetched(pair: Any) -> tuple[np.ndarray, np.ndarray]:
    logits, mask = jax.device_get(pair)
    return np.asarray(logits), np.asarray(mask)
