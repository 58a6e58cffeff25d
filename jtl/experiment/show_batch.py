"""The first batch of a config as the network is given it, drawn as one picture."""

import contextlib
import math
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.ahead import read_ahead
from jtl.data.pipeline import EVERYTHING, READERS
from jtl.data.sources.protocol import Source
from jtl.errors import ConfigError
from jtl.experiment.assemble import make_prepare
from jtl.experiment.options import Config
from jtl.experiment.setup import Setup, set_up
from jtl.rng import base_key, view_keys

_MOST = 64  # images that can still be looked at
_INCHES, _DPI = 1.6, 110  # of one image
_LEAST_SHARE = 0.005  # of a label that is told
_LONGEST = 22  # characters of a line


def show_batch(config: Config, path: Path, *, source: Source | None = None) -> int:
    """Draws the batch of a run's first step, cropped, augmented and mixed, with its labels.

    Args:
        config: what the run would be a function of.
        path: of the picture; its suffix names the format.
        source: the examples, in place of those that the config names.

    Returns:
        How many images were drawn, 64 at most.

    Raises:
        JtlError: as `train` does, or the picture cannot be written.
    """
    setup = set_up(config, Path("runs") / config.name, source)
    batch = _first_batch(setup)
    count = min(len(batch["mask"]), _MOST)
    pixels = setup.pretrained.preprocess.restore(np.asarray(batch["image"])[:count])
    labels = np.asarray(batch["label"])[:count]
    said = [_described(label, setup.examples.source.classes) for label in labels]
    titles = [
        text if real else "cannot be read" for text, real in zip(said, batch["mask"].tolist())
    ]
    _draw(pixels, titles, path)
    return count


def _first_batch(setup: Setup) -> dict[str, Any]:
    config, examples = setup.config, setup.examples
    order = examples.order(config)
    steps = examples.train_steps(order, 0, 1, EVERYTHING)
    with contextlib.closing(read_ahead(steps, examples.options.timeout, READERS)) as batches:
        batch = next(batches)
    classes = len(examples.source.classes)
    prepare = make_prepare(setup.pretrained.preprocess, config.augment, classes)
    # The keys that the step itself draws from.
    view, example = jnp.asarray(batch["view"]), jnp.asarray(batch["example"])
    keys = view_keys(base_key(config.seed), "augment", view, example)
    return {**batch, **jax.jit(prepare)(batch, keys)}


def _described(label: np.ndarray, classes: tuple[str, ...]) -> str:
    """A class, or several with their shares, the largest first."""
    if label.ndim == 0:
        return _shortened(classes[int(label)])
    most = np.argsort(-label, kind="stable")[:3]
    parts = [(classes[each], float(label[each])) for each in most if label[each] > _LEAST_SHARE]
    if len(parts) == 1 and parts[0][1] > 1 - _LEAST_SHARE:
        return _shortened(parts[0][0])
    return "\n".join(f"{share:.2f} {_shortened(name)}" for name, share in parts) or "no label"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _draw(images: np.ndarray, titles: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    lines = max(title.count("\n") for title in titles)
    height = _INCHES + 0.17 * lines
    figure = Figure(figsize=(columns * _INCHES, rows * height), dpi=_DPI, layout="constrained")
    for place, (image, title) in enumerate(zip(images, titles), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, fontsize=7, parse_math=False)
    try:
        with warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the picture cannot be written to {path}: {error}; give a path such as batch.png."
        ) from error
