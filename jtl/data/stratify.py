"""A seeded division in two with every class in proportion, equal to scikit-learn's."""

import math

import numpy as np


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the larger and of the smaller part, int `[n]` each.

    They are those of scikit-learn's `train_test_split(..., stratify=labels)`, which takes
    seconds to import: every start of a run would wait for that.

    Args:
        labels: int `[examples]`, or `[examples, classes]` where each may have several; every
            combination of them is then a class.
        fraction: of all examples, for the smaller part, in (0, 1).
        seed: of the division.

    Raises:
        ValueError: a class has one example, or a part fewer than there are classes.
    """
    if labels.ndim > 1:  # in the order of their texts, as scikit-learn has them
        labels = np.array([" ".join(row.astype(str)) for row in labels])
    own = math.ceil(fraction * len(labels))
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    _check(counts, own, len(labels) - own)
    rng = np.random.RandomState(seed)
    kept = _proportional(counts, len(labels) - own, rng)
    given = _proportional(counts - kept, own, rng)
    rest: list[int] = []
    taken: list[int] = []
    for index in range(len(classes)):
        members = np.flatnonzero(inverse == index)[rng.permutation(counts[index])]
        rest.extend(members[: kept[index]])
        taken.extend(members[kept[index] : kept[index] + given[index]])
    return rng.permutation(rest), rng.permutation(taken)


def _check(counts: np.ndarray, own: int, left: int) -> None:
    if counts.min(initial=2) < 2:
        raise ValueError("a class has one example alone")
    if min(own, left) < max(1, len(counts)):
        raise ValueError(f"a part of {min(own, left)} cannot hold each of {len(counts)} classes")


def _proportional(counts: np.ndarray, total: int, rng: np.random.RandomState) -> np.ndarray:
    """How many of each class make up a total, ties dealt by the generator."""
    exact = counts / counts.sum() * total
    dealt = np.floor(exact)
    rest, short = exact - dealt, int(total - dealt.sum())
    for value in np.unique(rest)[::-1]:
        if short <= 0:
            break
        (tied,) = np.nonzero(rest == value)
        lucky = rng.choice(tied, size=min(len(tied), short), replace=False)
        dealt[lucky] += 1
        short -= len(lucky)
    return dealt.astype(int)
