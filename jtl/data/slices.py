"""Slices of named splits, such as `train[:10%]+val`, over examples in a seeded order."""

import re
from collections.abc import Mapping

import numpy as np

from jtl.errors import DataError
from jtl.tree import nearest

_PART = re.compile(r"\s*(?P<name>[^\[\]+\s]+)\s*(\[(?P<start>[^:\]]*):(?P<stop>[^\]]*)\])?\s*")
_EDGE = re.compile(r"\s*(?P<number>-?\d+(\.\d+)?)\s*(?P<percent>%?)\s*")


def slice_named(
    text: str, labels: np.ndarray, named: Mapping[str, np.ndarray], seed: int, option: str
) -> np.ndarray:
    """The examples of a slice.

    Args:
        text: names with an optional `[from:to]` of examples or percent, joined by `+`.
        labels: int `[examples]`; a slice has its classes in proportion.
        named: the splits that the source names; `all` is known beside them.
        seed: of the order that slices are taken of, the same for every slice.
        option: what messages call the slice.

    Returns:
        Int `[n]`, sorted.

    Raises:
        DataError: the text is no slice, or names a split that there is not.
    """
    known = {**named, "all": np.arange(len(labels))}
    taken = []
    for part in text.split("+"):
        match = _PART.fullmatch(part)
        if match is None:
            raise DataError(
                f"{option}={text!r}: {part.strip()!r} is no slice; write a split's name, such as "
                "train, with an optional part, such as train[:80%] or train[100:200]."
            )
        name = match["name"]
        if name not in known:
            near = nearest(name, known)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{option}={text!r}: the source has no split {name!r}; it has "
                f"{', '.join(known)}.{hint}"
            )
        order = _in_proportion(known[name], labels, seed)
        start = _edge(match["start"], len(order), 0, option, text)
        stop = _edge(match["stop"], len(order), len(order), option, text)
        taken.append(order[start:stop])
    whole = np.concatenate(taken)
    if len(np.unique(whole)) < len(whole):
        raise DataError(f"{option}={text!r} takes some examples twice; let its parts not overlap.")
    return np.sort(whole)


def _in_proportion(indices: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The examples in a seeded order, of which every part has the classes in proportion."""
    indices = np.random.default_rng(np.random.SeedSequence([seed, 1])).permutation(indices)
    place = np.empty(len(indices))
    for label in np.unique(labels[indices]):
        own = labels[indices] == label
        place[own] = (np.arange(own.sum()) + 0.5) / own.sum()
    return indices[np.argsort(place, kind="stable")]


def _edge(text: str | None, length: int, default: int, option: str, whole: str) -> int:
    if not (text or "").strip():
        return default
    match = _EDGE.fullmatch(text or "")
    if match is None or ("." in match["number"] and not match["percent"]):
        raise DataError(
            f"{option}={whole!r}: {text!r} is neither a whole number of examples nor a percentage, "
            "such as 500 or 10%."
        )
    number = float(match["number"])
    place = round(number / 100 * length) if match["percent"] else int(number)
    return min(max(place + length if number < 0 else place, 0), length)
