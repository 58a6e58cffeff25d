"""Examples as small images, each beside what its network looked at."""

import io

import numpy as np
from PIL import Image

from jtl.experiment.assemble import Examples
from jtl.experiment.run import Run
from jtl.report.explain import gradcam, overlay
from jtl.report.outcomes import Outcomes
from jtl.report.page import Thumb, data_url

_SIDE = 144  # pixels of a thumbnail at most
_AS_IT_IS = 64  # pixels up to which a picture is stored without loss


def example_thumbs(
    run: Run, examples: Examples, outcomes: Outcomes, rows: np.ndarray
) -> list[Thumb]:
    """A thumbnail of each of these rows, with Grad-CAM of the predicted class.

    Args:
        run: whose network it is.
        examples: of the run.
        outcomes: of the run.
        rows: places in the outcomes, int `[n]`.
    """
    if not len(rows):
        return []
    batch = examples.reader.gather(outcomes.examples[rows])
    images, predicted = batch["image"], outcomes.predicted[rows]
    maps = gradcam(run.model, run.variables, run.preprocess.normalize(images), predicted)
    names = outcomes.classes
    thumbs = []
    for place, (row, guess) in enumerate(zip(rows, predicted)):
        truth = " and ".join(names[k] for k in np.flatnonzero(outcomes.truth[row])) or "none"
        thumbs.append(
            Thumb(
                image=image_url(images[place]),
                overlay=image_url(overlay(images[place], maps[place])),
                title=f"{names[guess]} {outcomes.probabilities[row, guess]:.1%}",
                lines=(f"true: {truth}", f"{outcomes.split} {outcomes.names[row]}"),
                alt=f"{outcomes.names[row]}, {truth} taken for {names[guess]}",
            )
        )
    return thumbs


def image_url(image: np.ndarray) -> str:
    """An image as a data URL, at most as large as a thumbnail.

    Args:
        image: uint8 `[height, width, 3]`.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    kind, options = ("PNG", {}) if max(picture.size) <= _AS_IT_IS else ("JPEG", {"quality": 85})
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return data_url(content.getvalue(), f"image/{kind.lower()}")
