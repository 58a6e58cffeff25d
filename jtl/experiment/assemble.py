"""From a config to the objects that it names: source, splits, network, steps, placement."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from jtl.data.augment import AugmentOptions, make_augment
from jtl.data.options import DataOptions
from jtl.data.pipeline import TrainOrder, eval_batches
from jtl.data.sources import Arrays, Source, fitted
from jtl.data.splits import Splits, make_splits
from jtl.engine import parallel
from jtl.engine.evaluation import Prepare, make_eval_step, make_predict_step
from jtl.engine.losses import cross_entropy
from jtl.engine.parallel import Placement
from jtl.experiment.options import Config, ModelOptions
from jtl.rng import base_key, stream_key
from jtl.training.evaluate import evaluate, predict
from jtl.training.phases import Phase, make_phases
from jtl.weights.load import Pretrained, load_model
from jtl.weights.preprocess import Preprocess

_PLACEMENTS = {
    "auto": parallel.best,
    "single": parallel.single,
    "pmap": parallel.pmap,
    "mesh": parallel.mesh,
}


def make_placement(name: str) -> Placement:
    """The placement of that name, over all devices."""
    return _PLACEMENTS[name]()


def make_model(options: ModelOptions, classes: tuple[str, ...], seed: int) -> Pretrained:
    """The network with its weights, and a head for these classes."""
    # Only residual networks have the field, so it is not named where it is off.
    fields: dict[str, Any] = {}
    if options.drop_path_rate:
        fields["drop_path_rate"] = options.drop_path_rate
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


def make_prepare(preprocess: Preprocess, options: AugmentOptions | None) -> Prepare:
    """Augmentation, where there are keys, and normalisation, on the device.

    Args:
        preprocess: of the weights.
        options: how training images are varied; None varies nothing.
    """
    augment = make_augment(options) if options is not None else None

    def prepare(batch: dict[str, Any], keys: jax.Array | None) -> dict[str, Any]:
        images = batch["image"]
        if augment is not None and keys is not None:
            images = augment(images, keys)
        return {"image": preprocess.normalize(images)}

    return prepare


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """A source with its splits."""

    source: Source
    splits: Splits

    def batches(self, split: str, batch_size: int) -> Iterator[Arrays]:
        """A split's examples once, padded and masked."""
        return eval_batches(self.source, self.splits[split], batch_size)

    def order(self, options: DataOptions, seed: int) -> TrainOrder:
        """The order of training."""
        return TrainOrder(indices=self.splits["train"], batch_size=options.batch_size, seed=seed)


def make_examples(
    source: Source, options: DataOptions, preprocess: Preprocess, seed: int
) -> Examples:
    """A source split as the options say, its images at the network's size."""
    splits = make_splits(source.labels, options.split, seed)
    return Examples(source=fitted(source, preprocess.resize_and_crop), splits=splits)


class Evaluator:
    """Evaluates and predicts with one network, each program compiled once."""

    def __init__(
        self, model: Any, preprocess: Preprocess, place: Placement, batch_size: int
    ) -> None:
        prepare = make_prepare(preprocess, None)
        self._place = place
        self._evaluate = place.compile(make_eval_step(model, loss=cross_entropy(), prepare=prepare))
        self._predict = place.compile(make_predict_step(model, prepare=prepare))
        devices = len(place.devices)
        self.batch_size = -(-batch_size // devices) * devices

    def metrics(self, variables: Any, examples: Examples, split: str) -> dict[str, float]:
        """The metrics of a split; `variables` lie where `put` placed them."""
        batches = examples.batches(split, self.batch_size)
        return evaluate(self._place, self._evaluate, variables, batches)

    def probabilities(self, variables: Any, batches: Iterator[Arrays]) -> Any:
        """Class probabilities of all unmasked examples, in order."""
        return predict(self._place, self._predict, variables, batches)

    def put(self, variables: Any) -> Any:
        """Copies variables to where the steps run."""
        return self._place.put_state(variables)


def phases_of(config: Config, pretrained: Pretrained, order: TrainOrder) -> tuple[Phase, ...]:
    """The phases of a config, made ready for this network."""
    prepare = make_prepare(pretrained.preprocess, config.augment)
    params = pretrained.variables["params"]
    return make_phases(config.train, pretrained.model, params, order, prepare)
