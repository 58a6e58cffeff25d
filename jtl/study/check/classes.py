"""Classes: names that may mean the same, classes that are empty, rare or unequal."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

import numpy as np

from jtl.study.check.findings import Finding

_FEW = 10  # readable images of a class
_UNEQUAL = 10  # times as many in the largest class as in the smallest
_LONG = 5  # letters from which one mistake more or less may be a slip
_RARE = 0.25  # of the other class's images, where a name may be a slip of the other's
_MOST_NAMES = 3000  # compared with each other


def class_findings(classes: Sequence[str], counts: np.ndarray) -> Iterator[Finding]:
    """What is odd about a set of classes.

    Args:
        classes: their names.
        counts: of readable images, int `[classes]`.
    """
    for name, count in zip(classes, counts):
        if count == 0:
            yield Finding(kind="empty_class", message=f"{name} has no readable image")
        elif count < _FEW:
            message = f"{name} has {count} readable image{'s' if count > 1 else ''}"
            yield Finding(kind="few_examples", message=message, score=float(_FEW - count))
    present = counts[counts > 0]
    if len(present) > 1 and present.max() > _UNEQUAL * present.min():
        large, small = int(np.argmax(counts)), int(np.argmin(np.where(counts, counts, np.inf)))
        times = counts[large] / counts[small]
        yield Finding(
            kind="imbalance",
            message=f"{classes[large]} has {times:.0f} times as many images as {classes[small]} "
            f"({counts[large]} and {counts[small]})",
            score=float(times),
        )
    for first, second in _alike(classes, counts):
        yield Finding(
            kind="class_typo",
            message=f"{classes[first]} ({counts[first]}) and {classes[second]} ({counts[second]})",
        )


def _alike(classes: Sequence[str], counts: np.ndarray) -> list[tuple[int, int]]:
    folded = [_folded(name) for name in classes]
    same = defaultdict[str, list[int]](list)
    for place, text in enumerate(folded):
        same[text].append(place)
    pairs = [(own[0], other) for text, own in same.items() if text for other in own[1:]]
    words = [text for text in same if len(text) >= _LONG and not text.isdigit()]
    for at, text in enumerate(words if len(words) <= _MOST_NAMES else []):
        slips = [(same[text][0], same[other][0]) for other in words[at + 1 :] if _slip(text, other)]
        sizes = [sorted((int(counts[one]), int(counts[two]))) for one, two in slips]
        pairs += [pair for pair, (few, many) in zip(slips, sizes) if few <= _RARE * many]
    return pairs


def _folded(name: str) -> str:
    """Without case, accents, spaces and a plural's s."""
    plain = unicodedata.normalize("NFKD", name).casefold()
    text = "".join(letter for letter in plain if letter.isalnum())
    return text[:-1] if len(text) > _LONG and text.endswith("s") else text


def _slip(first: str, second: str) -> bool:
    """Whether one letter is missing, wrong or in its neighbour's place; numbers are no slips."""
    if abs(len(first) - len(second)) > 1 or re.sub(r"\D", "", first) != re.sub(r"\D", "", second):
        return False
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    changed = [own for own in blocks if own[0] != "equal"]
    if len(changed) == 1:
        _, a, b, c, d = changed[0]
        return b - a <= 1 and d - c <= 1
    swapped = [at for at, (a, b) in enumerate(zip(first, second)) if a != b]
    return (
        len(first) == len(second)
        and len(swapped) == 2
        and swapped[1] == swapped[0] + 1
        and first[swapped[0]] == second[swapped[1]]
        and first[swapped[1]] == second[swapped[0]]
    )
