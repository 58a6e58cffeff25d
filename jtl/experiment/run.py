"""A finished run, read back from its folder: its network, its metrics, its predictions."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.decode import read_image
from jtl.data.options import load_source
from jtl.data.reader import Reader
from jtl.data.sources.arrays import ArraySource
from jtl.data.sources.protocol import Source
from jtl.errors import CheckpointError, ConfigError
from jtl.experiment.assemble import (
    Evaluator,
    Examples,
    make_evaluator,
    make_examples,
    make_placement,
)
from jtl.experiment.options import Config
from jtl.experiment.workdir import check_data, read_summary, stored_config
from jtl.models.registry import model_spec
from jtl.training.checkpoint import Checkpoints
from jtl.training.files import read_json, write_json
from jtl.weights.preprocess import Preprocess

Which = Literal["best", "last"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a run says of one image.

    Attributes:
        classes: the most probable classes, best first.
        probabilities: theirs, in [0, 1].
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        workdir: its folder.
        config: what it is a function of.
        summary: what `summary.json` holds.
        model: the Linen module.
        variables: the best ones by the monitored metric, or the last.
        preprocess: how images reach the network.
        classes: the name of each class, by logit.
        source: the examples, where they were given in memory.
    """

    workdir: Path
    config: Config
    summary: dict[str, Any]
    model: Any
    variables: dict[str, Any]
    preprocess: Preprocess
    classes: tuple[str, ...]
    source: Source | None = None

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """The metrics of one split: every example once.

        Args:
            split: `train`, `val` or `test`.

        Raises:
            ConfigError: there is no such split, or it is empty.
            DataError: the examples were given in memory and are gone, or they changed.
        """
        examples = self._examples
        if split not in examples.splits or not len(examples.splits[split]):
            known = ", ".join(name for name, own in examples.splits.items() if len(own))
            raise ConfigError(f"this run has no examples in the split {split!r}; it has {known}.")
        return self._evaluator.metrics(self._placed, examples, split)

    def predict(self, images: Sequence[str | Path] | np.ndarray, top: int = 1) -> list[Prediction]:
        """Classes and probabilities of images.

        Args:
            images: paths, or uint8 `[n, height, width, 3]`.
            top: how many classes to name for each image.

        Raises:
            DataError: a file is no image that can be read.
        """
        if isinstance(images, np.ndarray):
            pixels = [self.preprocess.resize_and_crop(image) for image in images]
        else:
            limit = self.config.data.max_pixels
            pixels = [
                self.preprocess.resize_and_crop(read_image(Path(path), limit)) for path in images
            ]
        if not pixels:
            return []
        rows = self._probabilities(np.stack(pixels))
        order = np.argsort(-rows, axis=-1, kind="stable")[:, :top]
        return [
            Prediction(
                classes=tuple(self.classes[i] for i in best),
                probabilities=tuple(float(row[i]) for i in best),
            )
            for row, best in zip(rows, order)
        ]

    def _probabilities(self, pixels: np.ndarray) -> np.ndarray:
        labels = np.zeros(len(pixels), np.int32)
        reader = Reader(
            source=ArraySource(images=pixels, labels=labels, classes=self.classes),
            size=self.preprocess.input_size,
            fit=self.preprocess.resize_and_crop,
        )
        return self._evaluator.probabilities(self._placed, reader, np.arange(len(pixels)))

    @cached_property
    def _examples(self) -> Examples:
        source = load_source(self.config.data) if self.source is None else self.source
        check_data(self.workdir, source)
        return make_examples(source, self.config, self.preprocess, self.workdir)

    @cached_property
    def _evaluator(self) -> Evaluator:
        place = make_placement(self.config.train)
        return make_evaluator(self.config, self.model, self.preprocess, place)

    @cached_property
    def _placed(self) -> Any:
        return self._evaluator.put(self.variables)


def load_run(workdir: str | Path, checkpoint: Which = "best") -> Run:
    """Reads a finished run from its folder.

    Args:
        workdir: the folder that `jtl train` printed.
        checkpoint: `best` by the monitored validation metric, or `last`.

    Raises:
        CheckpointError: the folder is no run, has not ended, or a file in it is damaged.
    """
    folder = Path(workdir)
    config, summary = stored_config(folder), read_summary(folder)
    record = read_json(folder / "model.json")
    dtype = None if config.model.precision == "float32" else jnp.dtype(config.model.precision)
    model = model_spec(config.model.name).family(**_tuples(record["fields"]), dtype=dtype)
    if checkpoint not in ("best", "last"):
        raise CheckpointError(f"checkpoint={checkpoint!r} is neither 'best' nor 'last'.")
    step = summary["best" if checkpoint == "best" else "final"]["step"]
    preprocess = Preprocess.from_dict(record["preprocess"])
    with Checkpoints(folder) as checkpoints:
        variables = checkpoints.variables(step, _shapes(model, preprocess.input_size))
    return Run(
        workdir=folder,
        config=config,
        summary=summary,
        model=model,
        variables=variables,
        preprocess=preprocess,
        classes=tuple(record["classes"]),
    )


_NOT_STORED = ("parent", "name", "dtype", "param_dtype")


def write_model(workdir: Path, model: Any, preprocess: Preprocess, classes: Sequence[str]) -> None:
    """Writes `model.json`: what `load_run` needs beside the config to build the network."""
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in _NOT_STORED
    }
    record = {"classes": list(classes), "preprocess": preprocess.to_dict(), "fields": fields}
    write_json(workdir / "model.json", record)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


def _shapes(model: Any, size: int) -> Any:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"batch_stats": {}} | jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes
    )
