"""Splits: which examples train, which choose, and which are looked at once, at the end."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from jtl.errors import DataError

Splits = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How one set of examples becomes three.

    Attributes:
        val: the fraction of all examples for validation.
        test: the fraction of all examples for the test.
        seed: of the split alone, so that the test set stays the same for every run's seed.
        shots: training examples kept of each class, drawn by the run's seed; None keeps all.
    """

    val: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    test: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    seed: Annotated[int, Ge(0)] = 0
    shots: Annotated[int, Ge(1)] | None = None


def make_splits(labels: np.ndarray, options: SplitOptions, run_seed: int) -> Splits:
    """Seeded splits with every class in the same proportion.

    Args:
        labels: int `[examples]`.
        options: fractions, seed and shots.
        run_seed: chooses which examples `shots` keeps.

    Returns:
        Sorted indices under `train`, `val` and `test`; a split of fraction 0 is empty.

    Raises:
        DataError: the fractions leave nothing to train on, or a class is too small.
    """
    everything = np.arange(len(labels))
    if options.val + options.test >= 1:
        raise DataError(
            f"data.split: val={options.val} and test={options.test} leave nothing to train on; "
            "their sum must be below 1."
        )
    rest, test = _divide(everything, labels, options.test, options.seed)
    train, val = _divide(rest, labels, options.val / (1 - options.test), options.seed + 1)
    if options.shots is not None:
        train = _few(train, labels, options.shots, run_seed)
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def _divide(
    indices: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if fraction == 0:
        return indices, indices[:0]
    from sklearn.model_selection import train_test_split

    try:
        return train_test_split(
            indices, test_size=fraction, random_state=seed, stratify=labels[indices]
        )
    except ValueError as error:
        counts = np.bincount(labels[indices])
        raise DataError(
            f"data.split: {len(indices)} examples cannot be split by class with a share of "
            f"{fraction:.3g} ({error}); the smallest class has {counts[counts > 0].min()}: give "
            "it more examples or set the share to 0."
        ) from error


def _few(indices: np.ndarray, labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(np.random.SeedSequence([seed, shots]))
    kept = []
    for label in np.unique(labels[indices]):
        own = indices[labels[indices] == label]
        if len(own) < shots:
            raise DataError(
                f"data.split.shots={shots}, but class {label} has only {len(own)} training "
                f"examples; set at most {len(own)}."
            )
        kept.append(rng.choice(own, shots, replace=False))
    return np.concatenate(kept)
