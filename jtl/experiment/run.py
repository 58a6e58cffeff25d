"""A finished run, read back from its folder: its network, its metrics, its predictions."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jtl.data.options import load_source
from jtl.data.reader import Reader
from jtl.data.sources.arrays import ArraySource
from jtl.data.sources.listing import first_of
from jtl.data.sources.protocol import Source
from jtl.engine.views import ViewsName, make_views
from jtl.errors import CheckpointError, ConfigError, DataError
from jtl.experiment.assemble import (
    Evaluator,
    Examples,
    make_evaluator,
    make_examples,
    make_placement,
)
from jtl.experiment.conclude import PREDICTIONS, calibration_of
from jtl.experiment.options import Config
from jtl.experiment.predict import Images, Prediction, predict_each, unlabelled
from jtl.experiment.workdir import check_data, read_summary, stored_config
from jtl.models.registry import model_spec
from jtl.training.files import read_json, write_json
from jtl.training.measure.calibrate import untempered
from jtl.training.measure.predictions import RAW, Calibration, Predictions, read_predictions
from jtl.training.measure.tally import Tally
from jtl.training.mirror import fetch_copy, send, spoken_of
from jtl.training.saved_steps import SavedSteps
from jtl.training.storage import ObjectStorage, is_address
from jtl.weights.preprocess import Preprocess

Which = Literal["best", "last"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        workdir: its folder; of one at an address, what was fetched of it.
        config: what it is a function of.
        summary: what `summary.json` holds.
        model: the Linen module.
        variables: the best ones by the monitored metric, or the last.
        preprocess: how images reach the network.
        classes: the name of each class, by logit.
        calibration: the temperature and thresholds that these variables were given on validation.
        checkpoint: which variables these are.
        source: the examples, where they were given in memory.
        address: on object storage, where the run is kept there.
    """

    workdir: Path
    config: Config
    summary: dict[str, Any]
    model: Any
    variables: dict[str, Any]
    preprocess: Preprocess
    classes: tuple[str, ...]
    calibration: Calibration = RAW
    checkpoint: Which = "best"
    source: Source | None = None
    address: str | None = None

    @property
    def kept(self) -> str:
        """Where the run is: its address, or its folder."""
        return self.address or str(self.workdir)

    def store(self, paths: Iterable[Path]) -> list[str]:
        """Stores files that were made in the folder of a run at its address, if it has one.

        Returns:
            Where each of them is then.

        Raises:
            CheckpointError: one cannot be stored.
        """
        if self.address is None:
            return [str(path) for path in paths]
        return send(self.address, self.workdir, paths)

    @property
    def record(self) -> dict[str, Any]:
        """What the summary holds of these variables: step, metrics, intervals, calibration."""
        return _chosen(self.summary, self.checkpoint)

    def evaluate(self, split: str = "test", tta: ViewsName | None = None) -> dict[str, float]:
        """The metrics of one split: every example once, with the run's thresholds.

        Args:
            split: `train`, `val` or `test`.
            tta: the views of each image whose probabilities are averaged; None is the image alone.

        Raises:
            ConfigError: there is no such split, or it is empty; or there are no such views.
            DataError: the examples were given in memory and are gone, or they changed.
        """
        return self.tally(split, tta).metrics()

    def tally(self, split: str = "test", tta: ViewsName | None = None) -> Tally:
        """Everything that can be said of one split: metrics, per class, confusion, reliability.

        Args:
            split: as for `evaluate`.
            tta: likewise.

        Raises:
            JtlError: as `evaluate`.
        """
        return Tally(self._score(split, tta), untempered(self.calibration))

    def predictions(self, split: str = "test") -> Predictions:
        """What the run said of each example of a split: those it kept, else computed now.

        Args:
            split: `train`, `val` or `test`; the latter two of the best parameters are kept.

        Raises:
            JtlError: as `evaluate`; or what was kept is damaged.
        """
        kept = None
        if self.checkpoint == "best":
            kept = read_predictions(self.workdir / PREDICTIONS, split)
        return self._score(split, None) if kept is None else kept

    def predict(
        self,
        images: Images,
        top: int = 1,
        *,
        batch_size: int | None = None,
        tta: ViewsName | None = None,
    ) -> list[Prediction]:
        """Classes and calibrated probabilities of images, one prediction each, in order.

        An image that cannot be read has a prediction that says so in `problem`.

        Args:
            images: paths, folders or globs; or uint8 `[n, height, width, 3]`.
            top: how many classes to name for each image.
            batch_size: images a step; by default as many as in evaluation.
            tta: as for `evaluate`.

        Raises:
            DataError: there is no image at all.
        """
        return list(self.iter_predict(images, top, batch_size=batch_size, tta=tta))

    def iter_predict(
        self,
        images: Images,
        top: int = 1,
        *,
        batch_size: int | None = None,
        tta: ViewsName | None = None,
    ) -> Iterator[Prediction]:
        """As `predict`, each prediction as soon as its batch is done."""
        source, missing = unlabelled(images)
        yield from missing
        yield from self._predict(source, top, batch_size, tta)

    def _predict(
        self, source: Source, top: int, batch_size: int | None, tta: ViewsName | None
    ) -> Iterator[Prediction]:
        yield from predict_each(
            self._evaluator(tta),
            self._placed,
            self._reader(source, tta),
            self.calibration,
            self.classes,
            top=top,
            batch_size=batch_size or self.config.data.eval_batch_size,
            options=self.config.data.read,
        )

    def _reader(self, source: Source, tta: ViewsName | None = None) -> Reader:
        preprocess, data = self._preprocess(tta), self.config.data
        return Reader(
            source=source,
            size=preprocess.input_size,
            fit=preprocess.resize_and_crop,
            threads=data.decoders,
            skip=not isinstance(source, ArraySource),
            max_pixels=data.max_pixels,
        )

    def _score(self, split: str, tta: ViewsName | None) -> Predictions:
        examples = self._examples(tta)
        if split not in examples.splits or not len(examples.splits[split]):
            known = ", ".join(name for name, own in examples.splits.items() if len(own))
            raise ConfigError(f"this run has no examples in the split {split!r}; it has {known}.")
        return self._evaluator(tta).predictions(self._placed, examples, split)

    def _preprocess(self, tta: ViewsName | None) -> Preprocess:
        if tta in ("five", "ten"):
            return with_margin(self.preprocess)
        return self.preprocess

    def _examples(self, tta: ViewsName | None) -> Examples:
        if tta not in self._made_examples:
            source = self._source
            check_classes(source, self.classes)
            made = make_examples(source, self.config, self._preprocess(tta), self.workdir)
            check_data(self.workdir, source, made.splits)
            self._made_examples[tta] = made
        return self._made_examples[tta]

    def _evaluator(self, tta: ViewsName | None) -> Evaluator:
        if tta not in self._evaluators:
            views = None if tta is None else make_views(tta, self.preprocess.input_size)
            place = make_placement(self.config.train)
            made = make_evaluator(self.config, self.model, self.preprocess, place, views)
            self._evaluators[tta] = made
        return self._evaluators[tta]

    @cached_property
    def _source(self) -> Source:
        return load_source(self.config.data) if self.source is None else self.source

    @cached_property
    def _made_examples(self) -> dict[str | None, Examples]:
        return {}

    @cached_property
    def _evaluators(self) -> dict[str | None, Evaluator]:
        return {}

    @cached_property
    def _placed(self) -> Any:
        return self._evaluator(None).put(self.variables)


def with_margin(preprocess: Preprocess) -> Preprocess:
    """The preprocessing that leaves what is cut off around the central crop.

    Raises:
        ConfigError: nothing is cut off.
    """
    if preprocess.fit != "crop" or preprocess.resize <= preprocess.input_size:
        raise ConfigError(
            "five and ten crops are cut from the margin around the central crop, and the "
            "preprocessing of these weights cuts nothing off; take tta='flip'."
        )
    return dataclasses.replace(preprocess, input_size=preprocess.resize)


def check_classes(source: Source, classes: tuple[str, ...]) -> None:
    """Refuses data whose classes are not those of the network.

    Raises:
        DataError: which are missing on either side.
    """
    if tuple(source.classes) == classes:
        return
    unknown = [name for name in source.classes if name not in classes]
    gone = [name for name in classes if name not in source.classes]
    problems = [
        f"{what}: {first_of(names)}"
        for what, names in (
            ("has classes that the model does not have", unknown),
            ("lacks classes of the model", gone),
        )
        if names
    ]
    said = "; it ".join(problems) or "has the classes of the model in another order"
    raise DataError(f"the data {said}; give the data that the run was trained on.")


def load_run(workdir: str | Path, checkpoint: Which = "best") -> Run:
    """Reads a finished run from its folder, or from its address on object storage.

    Args:
        workdir: what `jtl train` printed; what stands at an address is fetched into the cache.
        checkpoint: `best` by the monitored validation metric, or `last`.

    Raises:
        CheckpointError: the folder is no run, has not ended, or a file in it is damaged.
    """
    if checkpoint not in ("best", "last"):
        raise CheckpointError(f"checkpoint={checkpoint!r} is neither 'best' nor 'last'.")
    if not is_address(workdir):
        return _load_run(Path(workdir), checkpoint)
    address = ObjectStorage(workdir).address
    folder = fetch_copy(address)
    with spoken_of(folder, address):
        stored_config(folder)
        fetch_copy(address, _chosen(read_summary(folder), checkpoint)["step"])
        return dataclasses.replace(_load_run(folder, checkpoint), address=address)


def _load_run(folder: Path, checkpoint: Which) -> Run:
    config, summary = stored_config(folder), read_summary(folder)
    record = read_json(folder / "model.json")
    dtype = None if config.model.precision == "float32" else jnp.dtype(config.model.precision)
    model = model_spec(config.model.name).family(**_tuples(record["fields"]), dtype=dtype)
    chosen = _chosen(summary, checkpoint)
    preprocess = Preprocess.from_dict(record["preprocess"])
    with SavedSteps(folder) as checkpoints:
        variables = checkpoints.variables(chosen["step"], _shapes(model, preprocess.input_size))
    return Run(
        workdir=folder,
        config=config,
        summary=summary,
        model=model,
        variables=variables,
        preprocess=preprocess,
        classes=tuple(record["classes"]),
        calibration=calibration_of(chosen),
        checkpoint=checkpoint,
    )


def _chosen(summary: dict[str, Any], checkpoint: Which) -> dict[str, Any]:
    found: dict[str, Any] = summary["best" if checkpoint == "best" else "final"]
    return found


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
