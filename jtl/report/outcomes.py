"""What a run said of each example of a split, and where it was wrong."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jtl.errors import CheckpointError

_BINS = 15


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Probabilities beside the truth.

    Attributes:
        split: whose examples these are.
        examples: their places in the source, int `[n]`.
        names: what each is called, such as its file.
        truth: which classes each has, bool `[n, classes]`.
        given: which it was said to have, bool `[n, classes]`.
        probabilities: float `[n, classes]`, without a temperature.
        classes: the name of each.
    """

    split: str
    examples: np.ndarray
    names: tuple[str, ...]
    truth: np.ndarray
    given: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @property
    def single(self) -> bool:
        """Whether every example has one class and no more."""
        return bool((self.truth.sum(axis=1) == 1).all())

    @property
    def labels(self) -> np.ndarray:
        """The class of each example, int `[n]`; the first of several."""
        return self.truth.argmax(axis=1)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each example, int `[n]`."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of that class, float `[n]`."""
        return self.probabilities.max(axis=1)

    @property
    def right(self) -> np.ndarray:
        """Whether the most probable class is one that the example has, bool `[n]`."""
        return self.truth[np.arange(len(self.truth)), self.predicted]

    def confusion(self) -> np.ndarray:
        """How often each class (row) was taken for each (column), int `[classes, classes]`."""
        width = len(self.classes)
        counts = np.bincount(self.labels * width + self.predicted, minlength=width * width)
        return counts.reshape(width, width)

    def reliability(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean confidence, accuracy and count of each bin of confidence that is not empty.

        Of examples that may have several classes, the probability of each class is a confidence.

        Args:
            temperature: at which confidence is taken.
        """
        confidence, right = self._scaled(temperature), self.right
        if not self.single:
            confidence, right = confidence.ravel(), self.truth.ravel()
        else:
            confidence = confidence.max(axis=1)
        place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        counts = np.bincount(place, minlength=_BINS)
        kept = counts > 0
        means = [
            np.bincount(place, values, _BINS)[kept] / counts[kept]
            for values in (confidence, right.astype(float))
        ]
        return means[0], means[1], counts[kept]

    def _scaled(self, temperature: float) -> np.ndarray:
        """The probabilities at a temperature; at 1 as they are."""
        if temperature == 1:
            return self.probabilities
        own = np.clip(self.probabilities, 1e-30, 1 - 1e-12)
        if not self.single:
            odds = np.exp((np.log(own) - np.log1p(-own)) / temperature)
            return odds / (1 + odds)
        # The logits are known but for what softmax takes no notice of.
        scaled = np.log(own) / temperature
        parts = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return parts / parts.sum(axis=1, keepdims=True)

    def most_confident_mistakes(self, count: int) -> np.ndarray:
        """The rows that were wrong with the highest probability, int, worst first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count]

    def least_confident_hits(self, count: int) -> np.ndarray:
        """The rows that were right with the lowest probability, int, least sure first."""
        right = np.flatnonzero(self.right)
        return right[np.argsort(self.confidence[right], kind="stable")][:count]


def read_outcomes(workdir: Path, classes: Sequence[str]) -> Outcomes | None:
    """What a run's `predictions.csv` holds of its test split, or of validation without one.

    Args:
        workdir: the run's folder.
        classes: the run's, in order.

    Returns:
        None where the run kept no predictions.

    Raises:
        CheckpointError: the file is damaged, or of other classes.
    """
    path = workdir / "predictions.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    head, width = rows[0] if rows else [], len(classes)
    if [*head[-width:]] != [f"p({name})" for name in classes]:
        raise CheckpointError(
            f"{path} does not have the {width} classes of its run; let jtl evaluate make it anew, "
            "or delete it."
        )
    columns = {name: place for place, name in enumerate(head[:-width])}
    splits = {row[0] for row in rows[1:]}
    split = "test" if "test" in splits else "val"
    own = [row for row in rows[1:] if row[0] == split]
    try:
        return _outcomes(own, columns, split, tuple(classes)) if own else None
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it.") from error


def _outcomes(
    rows: list[list[str]], columns: dict[str, int], split: str, classes: tuple[str, ...]
) -> Outcomes:
    title = columns.get("name", columns["example"])
    return Outcomes(
        split=split,
        examples=np.array([int(row[columns["example"]]) for row in rows]),
        names=tuple(row[title] for row in rows),
        truth=_named([row[columns["label"]] for row in rows], classes),
        given=_named([row[columns["predicted"]] for row in rows], classes),
        probabilities=np.array([[float(x) for x in row[-len(classes) :]] for row in rows]),
        classes=classes,
    )


def _named(cells: list[str], classes: tuple[str, ...]) -> np.ndarray:
    """Which classes each cell names, bool `[n, classes]`; several are parted by `|`."""
    places = {name: place for place, name in enumerate(classes)}
    named = np.zeros((len(cells), len(classes)), bool)
    for number, cell in enumerate(cells):
        for name in [cell] if cell in places else cell.split("|"):
            if name:
                named[number, places[name]] = True
    return named
