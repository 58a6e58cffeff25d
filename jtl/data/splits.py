"""Splits: which examples train, which choose, and which are looked at once, at the end."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from jtl.data.folds import FoldOptions, make_folds
from jtl.data.slices import slice_named
from jtl.data.stratify import stratified
from jtl.errors import DataError

Splits = Mapping[str, np.ndarray]
Share = Annotated[float, Interval(ge=0, lt=1)] | str

_DEFAULT = 0.2
_NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How the examples are dealt out.

    `val` and `test` are a fraction of what there is to train on, or a slice of splits that the
    source names, such as `train[90%:]` or `train[:500]+val`. A slice is of a shuffled split, in
    the proportions of its classes; `all` stands for every example. Left open, each is the
    source's own split of that name, or 0.2 where it has none.

    Attributes:
        train: a slice; left open, all that no other split takes of the source's own training
            split, or of everything.
        val: for validation.
        test: for the test.
        seed: of the splits alone, so that the test set stays the same for every run's seed.
        shots: training examples kept of each class, drawn by the run's seed; null keeps all.
        fold: which part of the training and validation examples validates, in place of `val`.
    """

    train: str | None = None
    val: Share | None = None
    test: Share | None = None
    seed: Annotated[int, Ge(0)] = 0
    shots: Annotated[int, Ge(1)] | None = None
    fold: FoldOptions | None = None


def make_splits(
    labels: np.ndarray,
    options: SplitOptions,
    run_seed: int,
    *,
    named: Mapping[str, np.ndarray] = _NOTHING,
    groups: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
) -> Splits:
    """Seeded splits with every class in the same proportion.

    Args:
        labels: int `[examples]`, or float `[examples, classes]` of several labels, which are not
            kept in proportion.
        options: shares, seed, shots and fold.
        run_seed: chooses which examples `shots` keeps.
        named: the splits that the source itself names, int `[n]` each.
        groups: int `[examples]`, equal for examples that fractions and folds may not part.
        exclude: int `[n]`, left out of every split; all others stay where they were.

    Returns:
        Sorted indices under `train`, `val` and `test`; a split of fraction 0 is empty.

    Raises:
        DataError: the splits overlap or leave nothing to train on, a class is too small, or a
            slice names what there is not.
    """
    kind = labels if labels.ndim == 1 else np.zeros(len(labels), np.int32)
    pool = named.get("train", np.arange(len(labels)) if not named else np.zeros(0, int))
    shares = {name: _share(getattr(options, name), name, named) for name in ("val", "test")}
    sliced = {
        name: slice_named(share, kind, named, options.seed, f"data.split.{name}")
        for name, share in (("train", options.train), *shares.items())
        if isinstance(share, str)
    }
    rest = sliced["train"] if "train" in sliced else _without(pool, sliced.values())
    fractions = {name: share for name, share in shares.items() if isinstance(share, float)}
    if sum(fractions.values()) >= 1:
        raise DataError(
            f"data.split: {_listed(fractions)} leave nothing to train on; their sum must be below "
            "1."
        )
    splits, left = dict(sliced), 1.0
    for name, seed in (("test", options.seed), ("val", options.seed + 1)):
        if name in fractions:
            rest, splits[name] = _divide(rest, kind, groups, fractions[name] / left, seed)
            left -= fractions[name]
    splits["train"] = rest
    _check_overlap(splits)
    if options.fold is not None:
        both = np.sort(np.concatenate([splits["train"], splits["val"]]))
        splits["train"], splits["val"] = make_folds(
            both, kind, options.fold.count, options.fold.seed, groups
        )[options.fold.index]
    if exclude is not None:
        splits = _left(splits, exclude)
    if options.shots is not None:
        splits["train"] = _few(splits["train"], labels, options.shots, run_seed)
    return {name: np.sort(splits[name]) for name in ("train", "val", "test")}


def _left(splits: Splits, exclude: np.ndarray) -> dict[str, np.ndarray]:
    left = {name: np.setdiff1d(own, exclude) for name, own in splits.items()}
    for name, own in left.items():
        if len(splits[name]) and not len(own):
            raise DataError(
                f"data.exclude leaves nothing of {name}, which had {len(splits[name])} examples; "
                "set exclude to false in the file for what shall stay."
            )
    return left


def _share(asked: float | str | None, name: str, named: Mapping[str, np.ndarray]) -> float | str:
    if asked is None:
        return name if name in named else _DEFAULT
    return asked if isinstance(asked, str) else float(asked)


def _listed(fractions: Mapping[str, float]) -> str:
    return " and ".join(f"{name}={share:g}" for name, share in fractions.items())


def _without(indices: np.ndarray, taken: object) -> np.ndarray:
    for own in taken:  # type: ignore[attr-defined]
        indices = np.setdiff1d(indices, own)
    return indices


def _check_overlap(splits: Mapping[str, np.ndarray]) -> None:
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = np.intersect1d(splits[first], splits[second])
        if len(shared):
            raise DataError(
                f"data.split: {first} and {second} share {len(shared)} examples; write slices "
                "that do not overlap, such as train[:80%] and train[80%:]."
            )


def _divide(
    indices: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if fraction == 0:
        return indices, indices[:0]
    try:
        if groups is not None:
            from sklearn.model_selection import GroupShuffleSplit

            dealer = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
            rest, own = next(dealer.split(indices, groups=groups[indices]))
            return indices[rest], indices[own]
        rest, own = stratified(labels[indices], fraction, seed)
        return indices[rest], indices[own]
    except ValueError as error:
        counts = np.bincount(labels[indices])
        smallest = counts[counts > 0].min(initial=len(indices))
        raise DataError(
            f"data.split: {len(indices)} examples cannot be split with a share of {fraction:.3g} "
            f"({error}); the smallest class has {smallest}: give it more examples or set the "
            "share to 0."
        ) from error


def _few(indices: np.ndarray, labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    if labels.ndim > 1:
        raise DataError(
            f"data.split.shots={shots} counts the examples of each class, but these have several "
            "labels each; set it to null, or take a slice such as data.split.train='train[:100]'."
        )
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
