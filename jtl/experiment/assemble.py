"""From a config to the objects that it names: source, splits, network, steps, placement."""

import dataclasses
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.augment import AugmentOptions, make_augment
from jtl.data.exclude import excluded
from jtl.data.kept import KeptImages, keep_images
from jtl.data.mix import make_mix
from jtl.data.options import DataOptions
from jtl.data.pipeline import ReadOptions, TrainOrder, eval_batches, train_steps
from jtl.data.reader import Reader, sized_once
from jtl.data.sources.arrays import ArraySource
from jtl.data.sources.protocol import Arrays, Source
from jtl.data.splits import Splits, make_splits
from jtl.engine import parallel
from jtl.engine.evaluation import Prepare, make_eval_step, make_score_step
from jtl.engine.parallel import Placement
from jtl.engine.views import Views
from jtl.errors import ConfigError
from jtl.experiment.options import Config, ModelOptions
from jtl.rng import base_key, stream_key
from jtl.training.evaluate import Evaluation, evaluate, score
from jtl.training.feed import check_labels
from jtl.training.measure.predictions import Predictions
from jtl.training.options import MeshOptions, TrainOptions
from jtl.training.phases import Phase, make_phases
from jtl.training.unreadable import Unreadable
from jtl.weights.cache import cache_folder
from jtl.weights.load import Pretrained, load_model
from jtl.weights.preprocess import Preprocess

_MIX = zlib.crc32(b"mix")  # as augmentations fold their own names into an example's key


def make_placement(options: TrainOptions) -> Placement:
    """The placement that the options name, over all devices.

    Raises:
        ConfigError: what is asked of a mesh is asked of another placement, or does not fit.
    """
    asked, kind = options.mesh, options.placement
    if kind == "mesh":
        return parallel.mesh(model=asked.model, zero=asked.zero)
    if asked != MeshOptions():
        raise ConfigError(
            f"train.mesh is for train.placement: mesh, but the placement is {kind!r}; set one of "
            "them."
        )
    return {"auto": parallel.best, "single": parallel.single, "pmap": parallel.pmap}[kind]()


def make_model(options: ModelOptions, classes: tuple[str, ...], seed: int) -> Pretrained:
    """The network with its weights, and a head for these classes."""
    # Only residual networks have the field, so it is not named where it is off.
    fields: dict[str, Any] = {}
    if options.drop_path_rate:
        fields["drop_path_rate"] = options.drop_path_rate
    if options.precision != "float32":
        fields["dtype"] = jnp.dtype(options.precision)
    if options.remat:
        fields["remat"] = options.remat
    return load_model(
        options.name,
        options.weights,
        len(classes),
        rng=stream_key(base_key(seed), "init", 0),
        head="auto" if options.weights is None else options.head,
        classes=classes,
        dropout_rate=options.dropout_rate,
        **fields,
    )


def make_prepare(
    preprocess: Preprocess, options: AugmentOptions | None = None, classes: int = 0
) -> Prepare:
    """Augmentation, where there are keys, and normalisation, on the device.

    Args:
        preprocess: of the weights.
        options: how training images are varied; None varies nothing.
        classes: the width of labels that mixup and CutMix blend.
    """
    augment = make_augment(options) if options is not None else None
    mixes = options is not None and (options.mixup > 0 or options.cutmix > 0)
    mix = make_mix(options, classes) if options is not None and mixes else None

    def prepare(batch: dict[str, Any], keys: jax.Array | None) -> dict[str, Any]:
        images = batch["image"]
        if augment is not None and keys is not None:
            images = augment(images, keys)
        prepared = {"image": preprocess.normalize(images)}
        if mix is not None and keys is not None:
            mix_keys = jax.vmap(lambda key: jax.random.fold_in(key, _MIX))(keys)
            return mix({**batch, **prepared}, mix_keys)
        return prepared

    return prepare


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """A source with its splits, and how it is read.

    Attributes:
        source: the examples as they are.
        splits: which of them train, validate and test.
        reader: brings their images to the network's size.
        options: how batches are read ahead.
        unreadable: notes the examples that are left out.
    """

    source: Source
    splits: Splits
    reader: Reader
    options: ReadOptions
    unreadable: Unreadable

    def train_steps(
        self, order: TrainOrder, start: int, stop: int, share: slice
    ) -> Generator[Arrays, None, None]:
        """This process's share of the training batches, each read once it is asked for."""
        batches = train_steps(
            self.reader, order, start=start, stop=stop, share=share, options=self.options
        )
        return self.unreadable.noted(batches)

    def batches(self, split: str, batch_size: int, share: slice) -> Generator[Arrays, None, None]:
        """This process's share of a split's examples, each once, padded and masked."""
        return self.unreadable.noted(
            eval_batches(self.reader, self.splits[split], batch_size, share, self.options)
        )

    def order(self, config: Config) -> TrainOrder:
        """The order of training."""
        return TrainOrder(
            indices=self.splits["train"],
            batch_size=config.data.batch_size,
            seed=config.seed,
            views=config.augment.views,
        )

    @property
    def class_counts(self) -> np.ndarray:
        """How many training examples each class has, int `[classes]`."""
        labels = self.source.labels[self.splits["train"]]
        if labels.ndim > 1:
            return np.rint(labels.sum(axis=0)).astype(int)
        return np.bincount(labels, minlength=len(self.source.classes))


def splits_of(source: Source, data: DataOptions, seed: int) -> Splits:
    """The splits of a source as options and a run's seed say, without what is to be left out.

    Raises:
        DataError: the source cannot be split so.
    """
    return make_splits(
        source.labels,
        data.split,
        seed,
        named=source.splits,
        groups=source.groups,
        exclude=None if data.exclude is None else excluded(source, Path(data.exclude)),
    )


def make_examples(
    source: Source, config: Config, preprocess: Preprocess, workdir: Path | None = None
) -> Examples:
    """A source split and read as a config says.

    Args:
        source: the examples.
        config: of the run.
        preprocess: of the weights, with the background that the config asks for.
        workdir: the run's folder, which keeps what cannot be read.

    Raises:
        DataError: the source cannot be split so, or its images cannot be kept.
    """
    data = config.data
    splits = splits_of(source, data, config.seed)
    reader = Reader(
        source=source,
        size=preprocess.input_size,
        fit=preprocess.resize_and_crop,
        crop=config.augment.crop,
        background=preprocess.background,
        seed=config.seed,
        threads=data.decoders,
        skip=data.on_error == "skip",
        max_pixels=data.max_pixels,
        kept=_keep(source, data, preprocess),
    )
    path = None if workdir is None else workdir / "unreadable.json"
    return Examples(
        source=source,
        splits=splits,
        reader=sized_once(reader),
        options=data.read,
        unreadable=Unreadable(source, path),
    )


def _keep(source: Source, data: DataOptions, preprocess: Preprocess) -> KeptImages | None:
    # Images in memory are read as fast as kept ones.
    if data.cache == "off" or isinstance(source, ArraySource):
        return None
    folder = cache_folder() / "images" if data.cache_dir is None else Path(data.cache_dir)
    return keep_images(
        source,
        form=data.cache,
        folder=folder.expanduser(),
        shrink=preprocess.shrink,
        identity=preprocess.shrinking,
        threads=data.decoders,
        max_pixels=data.max_pixels,
    )


class Evaluator:
    """Evaluates and scores with one network, each program compiled once."""

    def __init__(
        self,
        model: Any,
        preprocess: Preprocess,
        place: Placement,
        batch_size: int,
        *,
        several: bool = False,
        views: Views | None = None,
    ) -> None:
        prepare = make_prepare(preprocess)
        self._place, self.several = place, several
        # By the plain form of the loss that was minimised.
        self.step = make_eval_step(model, prepare=prepare, several=several)
        self._evaluate = place.compile(self.step)
        scored = make_score_step(model, prepare=prepare, several=several, views=views)
        self._score = place.compile(scored)
        self.batch_size = self.rounded(batch_size)
        self.share = place.share(self.batch_size)

    def rounded(self, batch_size: int) -> int:
        """The next batch size that divides over the devices."""
        parts = self._place.batch_parts
        return -(-batch_size // parts) * parts

    def evaluate(self, variables: Any, examples: Examples, split: str) -> Evaluation:
        """What a split sums up to on the devices; `variables` lie where `put` put them."""
        batches = examples.batches(split, self.batch_size, self.share)
        return evaluate(self._place, self._evaluate, variables, batches)

    def predictions(self, variables: Any, examples: Examples, split: str) -> Predictions:
        """What the network says of a split's examples, but for those that cannot be read.

        Raises:
            DataError: an example has a label that is no class of the network.
        """
        indices, source = examples.splits[split], examples.source
        batches = examples.batches(split, self.batch_size, self.share)
        logits, read = zip(*self.scored(variables, batches))
        mask = np.concatenate(read)[: len(indices)]
        chosen = indices[mask]
        label = source.labels[chosen]
        check_labels({"label": label, "example": chosen}, len(source.classes))
        return Predictions(
            logits=np.concatenate(logits)[: len(indices)][mask],
            label=label,
            example=chosen.astype(np.int32),
            name=np.array([source.name(int(index)) for index in chosen], dtype=np.str_),
            classes=source.classes,
            several=self.several,
        )

    def scored(
        self, variables: Any, batches: Iterable[Arrays]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The logits and the mask of each of these batches, in order."""
        return score(self._place, self._score, variables, batches)

    def put(self, variables: Any) -> Any:
        """Copies variables to where the steps run."""
        return self._place.put_state(variables)


def make_evaluator(
    config: Config,
    model: Any,
    preprocess: Preprocess,
    place: Placement,
    views: Views | None = None,
) -> Evaluator:
    """What evaluates a network of this config.

    Args:
        config: of the run.
        model: the network.
        preprocess: of its weights.
        place: where steps run.
        views: of each image, whose probabilities are averaged; None looks at the image alone.
    """
    several = _many_labels(config)
    return Evaluator(
        model, preprocess, place, config.data.eval_batch_size, several=several, views=views
    )


def _many_labels(config: Config) -> bool:
    return config.train.loss.name == "sigmoid"


def phases_of(config: Config, pretrained: Pretrained, examples: Examples) -> tuple[Phase, ...]:
    """The phases of a config, made ready for this network and these examples."""
    classes = len(examples.source.classes)
    return make_phases(
        config.train,
        pretrained.model,
        pretrained.variables["params"],
        examples.order(config),
        make_prepare(pretrained.preprocess, config.augment, classes),
        examples.class_counts,
    )
