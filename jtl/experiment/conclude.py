"""What a run's parameters are worth: metrics with intervals, calibration, kept predictions."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.experiment.assemble import Evaluator, Examples
from jtl.training.files import write_text
from jtl.training.measure.calibrate import Fit, fit_calibration, untempered
from jtl.training.measure.intervals import intervals
from jtl.training.measure.predictions import Calibration, Predictions, write_predictions
from jtl.training.measure.tally import Tally

PREDICTIONS = "predictions.npz"
_CALIBRATED = ("log_loss", "brier", "ece")  # what a temperature may change


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Conclusion:
    """What one set of parameters says of each split, and what that is worth.

    Attributes:
        predictions: by split.
        fit: the calibration, of the validation split alone.
    """

    predictions: Mapping[str, Predictions]
    fit: Fit

    def tally(self, split: str) -> Tally:
        """A split's predictions, with the thresholds but not the temperature."""
        return Tally(self.predictions[split], untempered(self.fit.calibration))

    def metrics(self) -> dict[str, dict[str, float]]:
        """Every metric of each split."""
        return {split: self.tally(split).metrics() for split in self.predictions}

    def intervals(self) -> dict[str, dict[str, list[float]]]:
        """Their 95 % intervals."""
        return {
            split: {name: list(own) for name, own in intervals(self.tally(split)).items()}
            for split in self.predictions
        }

    def calibration(self) -> dict[str, Any]:
        """The temperature and thresholds, and what the temperature changes on each split."""
        own = self.fit.calibration
        scaled = Calibration(temperature=own.temperature)
        record: dict[str, Any] = {
            "temperature": own.temperature,
            "fitted_on": "val",
            **({"note": self.fit.note} if self.fit.note else {}),
        }
        if own.thresholds is not None:
            record["thresholds"] = list(own.thresholds)
        for name, calibration in (("before", Calibration()), ("after", scaled)):
            record[name] = {
                split: _calibrated(Tally(predictions, calibration).metrics())
                for split, predictions in self.predictions.items()
            }
        return record


def conclude(
    evaluator: Evaluator, examples: Examples, variables: Any, splits: Sequence[str]
) -> Conclusion:
    """Scores every example of these splits, each once.

    Args:
        evaluator: of the network.
        examples: that are split.
        variables: plain ones.
        splits: those that may be looked at; empty ones are passed over.
    """
    placed = evaluator.put(variables)
    predictions = {
        split: evaluator.predictions(placed, examples, split)
        for split in ("val", "test")
        if split in splits and len(examples.splits[split])
    }
    predictions = {split: own for split, own in predictions.items() if len(own)}
    return Conclusion(predictions=predictions, fit=fit_calibration(predictions.get("val")))


def keep(workdir: Path, conclusion: Conclusion) -> None:
    """Writes `predictions.npz`, and for people `predictions.csv`.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    if conclusion.predictions:
        write_predictions(workdir / PREDICTIONS, conclusion.predictions)
        write_text(workdir / "predictions.csv", _table(conclusion))


def calibration_of(record: Mapping[str, Any]) -> Calibration:
    """The calibration in `best` or `final` of a run's summary; none in one of before there was."""
    found = record.get("calibration", {})
    thresholds = found.get("thresholds")
    return Calibration(
        temperature=float(found.get("temperature", 1.0)),
        thresholds=None if thresholds is None else tuple(thresholds),
    )


def _calibrated(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in _CALIBRATED if name in metrics}


def _table(conclusion: Conclusion) -> str:
    """The test split, or validation without one; probabilities without the temperature."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    split = "test" if "test" in conclusion.predictions else "val"
    own, calibration = conclusion.predictions[split], untempered(conclusion.fit.calibration)
    columns = (f"p({name})" for name in own.classes)
    writer.writerow(["split", "example", "name", "label", "predicted", *columns])

    def named(row: Any) -> str:
        return "|".join(name for name, has in zip(own.classes, row) if has)

    probabilities = own.probabilities()
    rows = zip(own.example, own.name, own.truth, own.chosen(calibration), probabilities)
    for example, name, truth, chosen, row in rows:
        first = [split, example, name, named(truth), named(chosen)]
        writer.writerow([*first, *(f"{p:.6g}" for p in row)])
    return text.getvalue()
