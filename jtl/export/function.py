"""What is exported: uint8 images at the network's size in, probabilities out."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jtl.data.options import load_source
from jtl.errors import WeightsError
from jtl.experiment.assemble import make_examples
from jtl.experiment.run import Run

_IMAGES = 8  # that an export is checked with


def make_function(run: Run) -> Callable[[jax.Array], jax.Array]:
    """The pure function of a run, its weights, preprocessing and temperature included.

    It takes uint8 `[batch, size, size, 3]` in RGB and returns float32 `[batch, classes]`.
    """
    variables = jax.tree.map(np.asarray, run.variables)

    def function(images: jax.Array) -> jax.Array:
        pixels = run.preprocess.normalize(images)
        return probabilities(run, run.model.apply(variables, pixels, train=False))

    return function


def probabilities(run: Run, logits: Any) -> jax.Array:
    """What logits are worth at the run's temperature, float32 `[batch, classes]`."""
    scaled = logits.astype(np.float32) / run.calibration.temperature
    if run.config.train.loss.name == "sigmoid":
        return jax.nn.sigmoid(scaled)
    return jax.nn.softmax(scaled, axis=-1)


def real_images(run: Run) -> np.ndarray:
    """A few images that the run was tested with, uint8 `[n, size, size, 3]`.

    Raises:
        DataError: the run's data is gone.
    """
    source = load_source(run.config.data) if run.source is None else run.source
    examples = make_examples(source, run.config, run.preprocess, run.workdir)
    split = next(name for name in ("test", "val", "train") if len(examples.splits[name]))
    batch = examples.reader.gather(examples.splits[split][:_IMAGES])
    return batch["image"][batch["mask"]]


def expected(run: Run, images: np.ndarray) -> np.ndarray:
    """What the run itself says of images, float `[n, classes]`."""
    places = {name: place for place, name in enumerate(run.classes)}
    rows = np.zeros((len(images), len(run.classes)))
    for row, prediction in zip(rows, run.predict(images, top=len(run.classes))):
        for name, value in zip(prediction.classes, prediction.probabilities):
            row[places[name]] = value
    return rows


def check(run: Run, what: str, images: np.ndarray, got: Any) -> float:
    """Compares what an export says of images with what the run says.

    Returns:
        The greatest difference of a probability.

    Raises:
        WeightsError: they differ by more than rounding.
    """
    rows = np.asarray(got, np.float64)
    own = expected(run, images)
    tolerance = 1e-4 if run.config.model.precision == "float32" else 2e-2
    worst = float(np.abs(rows - own).max()) if rows.shape == own.shape else float("inf")
    if not worst <= tolerance:
        raise WeightsError(
            f"{what}: its probabilities differ from the run's by {worst:.2g} on {len(images)} "
            "images; nothing was exported."
        )
    return worst
