"""Copies: the same image twice, within a class, across classes and across splits."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jtl.study.check.findings import Finding
from jtl.study.check.look import Look
from jtl.study.check.near import near_pairs

# Of copies in several splits those in the first named are kept: a test stays as it was published.
_KEPT_FIRST = ("test", "val", "train")
_TOLD = 4  # names of a group


def copy_findings(
    looks: Sequence[Look],
    labels: np.ndarray,
    splits: Mapping[str, np.ndarray],
    name: Callable[[int], str],
) -> Iterator[Finding]:
    """Groups of exact copies, and pairs of near ones.

    Args:
        looks: of every example.
        labels: int `[examples]`.
        splits: that the source names.
        name: of an example.
    """
    rank = np.full(len(looks), len(_KEPT_FIRST), int)
    for place, split in enumerate(_KEPT_FIRST):
        rank[splits.get(split, np.zeros(0, int))] = place
    groups = defaultdict[bytes, list[int]](list)
    for index, look in enumerate(looks):
        if look.grey is not None:
            groups[look.digest].append(index)
    for group in groups.values():
        if len(group) > 1:
            yield _finding("exact", group, labels, rank, 1.0, name)
    # A blank image is like every other: what it is, is said elsewhere.
    kept = [own[0] for own in groups.values() if not _blank(looks[own[0]])]
    if len(kept) < 2:
        return
    greys = np.stack([own for index in kept if (own := looks[index].grey) is not None])
    hashes = np.stack([own for index in kept if (own := looks[index].phash) is not None])
    for pair in near_pairs(greys, hashes):
        # Copies of either stand in the group of that one.
        first, second = (groups[looks[kept[at]].digest] for at in (pair.first, pair.second))
        yield _finding("near", _closest(first, second, rank), labels, rank, pair.likeness, name)


def _blank(look: Look) -> bool:
    return any(kind == "blank" for kind, _, _ in look.problems)


def _closest(first: list[int], second: list[int], rank: np.ndarray) -> list[int]:
    """One of each; of different splits where there is a choice, since that is the worse."""
    pairs = [(one, two) for one in first for two in second]
    return list(next((pair for pair in pairs if rank[pair[0]] != rank[pair[1]]), pairs[0]))


def _finding(
    how: str,
    group: list[int],
    labels: np.ndarray,
    rank: np.ndarray,
    score: float,
    name: Callable[[int], str],
) -> Finding:
    ordered = sorted(group, key=lambda index: (rank[index], index))
    across_splits, across_classes = len(set(rank[group])) > 1, len(set(labels[group])) > 1
    drop = ordered[1:]
    if across_splits:
        kind = "leak" if how == "exact" else "near_leak"
        # A test image that contradicts itself is no better than a training image that does.
        drop = ordered if across_classes and how == "exact" else drop
    elif across_classes:
        kind = "contradiction" if how == "exact" else "near_contradiction"
        # Nobody knows which of the labels is right.
        drop = ordered
    else:
        kind = f"{how}_copy"
    more = f" and {len(ordered) - _TOLD} more" if len(ordered) > _TOLD else ""
    classes = ", of different classes" if across_classes and across_splits else ""
    return Finding(
        kind=kind,
        message=" = ".join(name(index) for index in ordered[:_TOLD]) + more + classes,
        examples=tuple(ordered),
        drop=tuple(drop),
        score=score + len(group) - 2,
    )
