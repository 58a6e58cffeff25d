"""Every metric of predictions, for any weights of the examples: figures, replicates, tables."""

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from jtl.engine.metrics import CALIBRATION_BINS, GUESSES, brier_scale, figures_of, ratio
from jtl.training.measure.predictions import RAW, Calibration, Predictions, log_softmax
from jtl.training.measure.ranking import RANKINGS, Ranking

if TYPE_CHECKING:
    from scipy import sparse

# What is told first, in this order; what does not apply to a run is passed over.
HEADLINES = ("accuracy", "top5", "f1", "roc_auc", "average_precision", "loss", "ece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How one class fares.

    Attributes:
        name: of the class.
        support: examples that have it.
        precision: of what is predicted as it, the share that is.
        recall: of its examples, the share that is found.
        f1: their harmonic mean.
        roc_auc: of its probability against the rest; NaN where one of both has no example.
        average_precision: likewise.
        threshold: the probability from which on it is predicted; None for the most probable.
    """

    name: str
    support: int
    precision: float
    recall: float
    f1: float
    roc_auc: float
    average_precision: float
    threshold: float | None


class Tally:
    """Predictions made ready to be summed with weights.

    Args:
        predictions: of one split, of at least one example.
        calibration: the temperature and thresholds that are applied.
    """

    def __init__(self, predictions: Predictions, calibration: Calibration = RAW) -> None:
        self.predictions, self.calibration = predictions, calibration
        self._truth = predictions.truth
        self._chosen = predictions.chosen(calibration)
        self.probabilities = predictions.probabilities(calibration)
        logits = predictions.logits.astype(np.float64) / calibration.temperature
        columns = self._several(logits) if predictions.several else self._single(logits)
        self._names, self._columns = list(columns), np.stack(list(columns.values()), axis=1)

    def _single(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        truth = self._truth.argmax(axis=1)[:, None]
        surprise = -np.take_along_axis(log_softmax(logits), truth, axis=1)[:, 0]
        # A label that is no class has no logit of its own.
        surprise = np.where(self._truth.any(axis=1), surprise, np.nan)
        away = ((self.probabilities - self._truth) ** 2).sum(axis=1)
        own = np.take_along_axis(logits, truth, axis=1)
        known = self._truth.any(axis=1) & ~np.isnan(own[:, 0])
        self._chosen &= ~np.isnan(logits).all(axis=1, keepdims=True)
        return {
            "loss": surprise,
            "log_loss": surprise,
            "brier": away * brier_scale(logits.shape[1]),
            "correct": (self._chosen & self._truth).any(axis=1),
            "top5": (logits.shape[1] - (logits <= own).sum(axis=1) < GUESSES) & known,
        }

    def _several(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        signed = np.where(self._truth, logits, -logits)
        surprise = np.logaddexp(0.0, -signed).mean(axis=1)
        number = self._truth & ~np.isnan(logits)
        best = np.where(number, logits, -np.inf).max(axis=1, keepdims=True)
        among = logits.shape[1] - (logits <= best).sum(axis=1) < GUESSES
        wrong = (self._chosen != self._truth).sum(axis=1)
        return {
            "loss": surprise,
            "log_loss": surprise,
            "brier": ((self.probabilities - self._truth) ** 2).mean(axis=1),
            "correct": wrong == 0,
            "wrong": wrong,
            "top5": among & self._truth.any(axis=1),
        }

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric but those of ranking, `[replicates]` each.

        Args:
            weights: float `[replicates, examples]`.
        """
        summed = weights @ self._columns
        sums = {name: summed[:, place] for place, name in enumerate(self._names)}
        sums["count"] = weights.sum(axis=1)
        for name, matrix in self._by_class.items():
            sums[name] = (matrix @ weights.T).T
        for name, matrix in self._by_bin.items():
            sums[name] = (matrix @ weights.T).T
        return figures_of(sums)

    def rankings(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """ROC-AUC and average precision, the means of those of every class that has them."""
        each = np.array([ranking.figures(weights) for ranking in self._rankings])
        known = ~np.isnan(each)
        mean = ratio(np.where(known, each, 0.0).sum(axis=0), known.sum(axis=0), np.nan)
        return dict(zip(RANKINGS, mean))

    def metrics(self) -> dict[str, float]:
        """Every metric; what these examples do not define is left out."""
        weights = np.ones((1, len(self.predictions)))
        found = {**self.figures(weights), **self.rankings(weights)}
        return {name: float(own[0]) for name, own in found.items() if not np.isnan(own[0])}

    def top(self, guesses: int) -> float:
        """The share of examples with a label of theirs among so many most probable classes."""
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :guesses]
        return float(np.take_along_axis(self._truth, best, axis=1).any(axis=1).mean())

    def classes(self) -> list[ClassFigures]:
        """Each class's own figures."""
        hits = (self._chosen & self._truth).sum(axis=0)
        predicted, actual = self._chosen.sum(axis=0), self._truth.sum(axis=0)
        weights = np.ones((1, len(self.predictions)))
        limits = self.calibration.thresholds or (0.5,) * len(actual)
        return [
            ClassFigures(
                name=name,
                support=int(actual[place]),
                precision=float(ratio(hits[place], predicted[place])),
                recall=float(ratio(hits[place], actual[place])),
                f1=float(ratio(2 * hits[place], predicted[place] + actual[place])),
                **{
                    figure: float(value[0])
                    for figure, value in zip(RANKINGS, self._rankings[place].figures(weights))
                },
                threshold=limits[place] if self.predictions.several else None,
            )
            for place, name in enumerate(self.predictions.classes)
        ]

    def confusion(self) -> np.ndarray:
        """Int64 `[true, predicted]`; of several labels `[class, truth, decision]`, each 2 × 2."""
        truth, chosen = self._truth.astype(np.int64), self._chosen.astype(np.int64)
        if not self.predictions.several:
            return truth.T @ chosen
        pairs = [[(1 - truth, 1 - chosen), (1 - truth, chosen)],
                 [(truth, 1 - chosen), (truth, chosen)]]  # fmt: skip
        cells = [[(one * other).sum(axis=0) for one, other in row] for row in pairs]
        return np.moveaxis(np.array(cells), -1, 0)

    def reliability(self) -> dict[str, np.ndarray]:
        """`count`, mean `confidence` and `accuracy` of each bin, float `[bins]`; NaN if empty."""
        count, correct, confidence = (
            np.asarray(self._by_bin[name].sum(axis=1)).reshape(-1)
            for name in ("bin_count", "bin_correct", "bin_confidence")
        )
        return {
            "count": count,
            "confidence": ratio(confidence, count, np.nan),
            "accuracy": ratio(correct, count, np.nan),
        }

    @cached_property
    def _by_class(self) -> "dict[str, sparse.csr_array]":
        from scipy import sparse  # which takes a tenth of a second, at the end of a run

        pairs = {"hits": self._chosen & self._truth, "predicted": self._chosen,
                 "actual": self._truth}  # fmt: skip
        return {name: sparse.csr_array(own.T.astype(np.float64)) for name, own in pairs.items()}

    @cached_property
    def _by_bin(self) -> "dict[str, sparse.csr_array]":
        """What each example adds to each bin, `[bins, examples]`."""
        from scipy import sparse

        if self.predictions.several:
            scores, hits = self.probabilities, self._truth
        else:
            scores = self.probabilities.max(axis=1, keepdims=True)
            hits = (self._chosen & self._truth).any(axis=1, keepdims=True)
        slots = np.clip(np.nan_to_num(scores) * CALIBRATION_BINS, 0, CALIBRATION_BINS - 1)
        place = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)
        where = (slots.astype(int).reshape(-1), place.reshape(-1))
        shape = (CALIBRATION_BINS, len(scores))

        def matrix(values: np.ndarray) -> "sparse.csr_array":
            return sparse.csr_array((values.reshape(-1).astype(np.float64), where), shape=shape)

        return {
            "bin_count": matrix(np.ones(scores.shape)),
            "bin_correct": matrix(hits),
            "bin_confidence": matrix(scores),
        }

    @cached_property
    def _rankings(self) -> list[Ranking]:
        columns = range(self.probabilities.shape[1])
        # By logits where they rank as probabilities do, because these may round to the same.
        scores = self.predictions.logits if self.predictions.several else self.probabilities
        return [Ranking(scores[:, place], self._truth[:, place]) for place in columns]
