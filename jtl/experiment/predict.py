"""What a finished run says of images: files, folders and globs, or arrays, in batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.decode import open_picture
from jtl.data.pipeline import ReadOptions, eval_batches
from jtl.data.reader import Reader
from jtl.data.sources.arrays import ArraySource
from jtl.data.sources.paths import PathSource, find_images
from jtl.data.sources.protocol import Source
from jtl.errors import DataError
from jtl.experiment.assemble import Evaluator
from jtl.training.measure.predictions import Calibration, Predictions

Images = str | Path | Sequence[str | Path] | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a run says of one image.

    Attributes:
        image: its path as it was found, or its place in an array.
        classes: the most probable classes, best first.
        probabilities: theirs, in [0, 1].
        labels: what is predicted: the most probable class; or, of images with several labels,
            every class from its threshold on, which may be none.
        overlay: the picture of what spoke for the most probable class, where one was asked for.
        problem: why the image could not be read, which leaves the others empty.
    """

    image: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    overlay: str = ""
    problem: str = ""


def unlabelled(images: Images) -> tuple[Source, list[Prediction]]:
    """The images as a source, and what was given but stands for none.

    Raises:
        DataError: nothing was given that could be an image.
    """
    if isinstance(images, np.ndarray):
        labels = np.zeros(len(images), np.int32)
        return ArraySource(images=images, labels=labels, classes=("",)), []
    given = [images] if isinstance(images, str | Path) else images
    paths, problems = find_images(given)
    if problems and not paths:
        raise DataError(" ".join(problems))
    return PathSource(paths=paths), [Prediction(image="", problem=line) for line in problems]


def predict_each(
    evaluator: Evaluator,
    variables: Any,
    reader: Reader,
    calibration: Calibration,
    classes: tuple[str, ...],
    *,
    top: int,
    batch_size: int,
    options: ReadOptions,
) -> Iterator[Prediction]:
    """A prediction for each image of a reader's source, in order, as batches are done.

    Args:
        evaluator: of the network.
        variables: placed ones.
        reader: of the images; one that cannot be read is named and passed over.
        calibration: of the run.
        classes: the name of each, by logit.
        top: how many classes to name for each image.
        batch_size: images a step, over all devices.
        options: how images are read.
    """
    count = len(reader.source)
    # Of few images no more is computed; powers of two, so that few programs are compiled.
    size = evaluator.rounded(min(batch_size, 1 << max(count - 1, 0).bit_length()))
    batches = eval_batches(reader, np.arange(count), size, options=options)
    for step, (logits, mask) in enumerate(evaluator.scored(variables, batches)):
        start, stop = step * size, min((step + 1) * size, count)
        own = _as_predictions(logits[: stop - start], classes, evaluator.several)
        named = _named(own, calibration, top)
        for place, index in enumerate(range(start, stop)):
            name = reader.source.name(index)
            if not mask[place]:
                yield Prediction(image=name, problem=_problem(reader, index))
                continue
            best, probabilities, labels = named[place]
            yield Prediction(image=name, classes=best, probabilities=probabilities, labels=labels)


def _named(
    own: Predictions, calibration: Calibration, top: int
) -> list[tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...]]]:
    """For each example its best classes, their probabilities, and its labels.

    All at once as far as arrays go: of a small network this is what takes the time.
    """
    rows, classes = own.probabilities(calibration), own.classes
    best = np.argsort(-rows, axis=-1, kind="stable")[:, :top]
    values = np.take_along_axis(rows, best, axis=-1).tolist()
    names = [tuple([classes[i] for i in each]) for each in best.tolist()]
    chosen: list[tuple[str, ...]]
    if not own.several:
        chosen = [(classes[i],) for i in own.logits.argmax(axis=-1).tolist()]
    else:
        limits = own.chosen(calibration)
        chosen = [tuple([classes[i] for i in np.flatnonzero(row)]) for row in limits]
    return list(zip(names, map(tuple, values), chosen))


def _as_predictions(logits: np.ndarray, classes: tuple[str, ...], several: bool) -> Predictions:
    nothing = np.zeros(len(logits), np.int32)
    return Predictions(
        logits=logits,
        label=nothing,
        example=nothing,
        name=nothing.astype(np.str_),
        classes=classes,
        several=several,
    )


def _problem(reader: Reader, index: int) -> str:
    """Why an image could not be read, found by reading it once more."""
    where = reader.source.where(index)
    try:
        reader.fit(open_picture(reader.source[index], where, reader.max_pixels).pixels())
    except DataError as error:
        return str(error)
    return f"{where} could not be read at first, and now can; try again."
