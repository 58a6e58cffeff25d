"""Pictures of a run's examples for those who follow it: what it reads, and where it errs."""

import numpy as np

from jtl.experiment.assemble import Examples
from jtl.training.events import Pictured
from jtl.training.measure.predictions import Predictions
from jtl.training.pictures import confusion_picture, example_sheet

_SHOWN = 16


def first_examples(examples: Examples) -> list[Pictured]:
    """Some images of the training split as the network is given them, before augmentation."""
    own = examples.splits["train"]
    spread = np.linspace(0, len(own) - 1, min(_SHOWN, len(own))).astype(int)
    rows, classes = own[np.unique(spread)], examples.source.classes
    truth = [_names(row, classes) for row in _several(examples.source.labels[rows], len(classes))]
    return _sheet(examples, rows, truth, "train/examples", 0)


def last_pictures(
    examples: Examples, predictions: Predictions, split: str, step: int
) -> list[Pictured]:
    """The confusion matrix of a split, and its most confident mistakes.

    Args:
        examples: of the run.
        predictions: what the run says of the split.
        split: its name.
        step: of the parameters that said it.
    """
    pictures, truth = [], predictions.truth
    probabilities = predictions.probabilities()
    guess = probabilities.argmax(axis=1)
    if not predictions.several:
        counts = truth.astype(np.int64).T @ np.eye(truth.shape[1], dtype=np.int64)[guess]
        image = confusion_picture(counts, predictions.classes)
        pictures.append(Pictured(step=step, name=f"{split}/confusion", image=image))
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(~truth[np.arange(len(truth)), guess])
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:_SHOWN]
    titles = [
        f"{predictions.classes[guess[row]]} {sure[row]:.1%}\n"
        f"not {_names(truth[row], predictions.classes)}"
        for row in worst
    ]
    rows = predictions.example[worst]
    return [*pictures, *_sheet(examples, rows, titles, f"{split}/mistakes", step)]


def _sheet(
    examples: Examples, rows: np.ndarray, titles: list[str], name: str, step: int
) -> list[Pictured]:
    if not len(rows):
        return []
    batch = examples.reader.gather(rows)
    readable = np.flatnonzero(batch["mask"])
    if not len(readable):
        return []
    image = example_sheet(batch["image"][readable], [titles[place] for place in readable])
    return [Pictured(step=step, name=name, image=image)]


def _several(labels: np.ndarray, classes: int) -> np.ndarray:
    return labels > 0.5 if labels.ndim == 2 else labels[:, None] == np.arange(classes)[None]


def _names(row: np.ndarray, classes: tuple[str, ...]) -> str:
    return ", ".join(classes[place] for place in np.flatnonzero(row)) or "none"
