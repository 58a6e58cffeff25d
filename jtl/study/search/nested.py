"""The outer folds of a nested cross-validation: each is the test split of a search of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl.data.folds import make_folds
from jtl.data.sources.protocol import Image, Source
from jtl.data.splits import SplitOptions
from jtl.errors import ConfigError
from jtl.experiment.assemble import splits_of
from jtl.experiment.options import Config

_VAL = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parted:
    """A source whose splits are named by us; all else is the source's own.

    Attributes:
        source: what is parted.
        splits: the examples of each split, int `[n]`.
    """

    source: Source
    splits: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Image:
        """One image."""
        return self.source[index]

    def __getattr__(self, name: str) -> Any:
        """All else."""
        return getattr(self.source, name)


def outer_config(config: Config) -> Config:
    """The config of a search within an outer fold, whose source names training and test.

    Raises:
        ConfigError: the validation split is a slice of the source's own splits.
    """
    split = config.data.split
    if isinstance(split.val, str) or split.fold is not None:
        raise ConfigError(
            "--nested draws the validation split within each outer fold; set data.split.val to a "
            "fraction such as 0.2, and data.split.fold to null."
        )
    val = _VAL if split.val is None else split.val
    own = SplitOptions(val=val, seed=split.seed, shots=split.shots)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, split=own))


def outer_source(source: Source, config: Config, outer: Mapping[str, Any]) -> Source:
    """The source with one outer fold as its test split; the config's test split is left out.

    Args:
        source: of the study.
        config: of a trial; only what it leaves out is taken from it.
        outer: `split`, the study's own options, and `count` and `index` of the fold.
    """
    split = SplitOptions(**{**outer["split"], "shots": None, "fold": None})
    whole = splits_of(source, dataclasses.replace(config.data, split=split), config.seed)
    pool = np.sort(np.concatenate([whole["train"], whole["val"]]))
    labels = source.labels
    kind = labels if labels.ndim == 1 else np.zeros(len(labels), np.int32)
    folds = make_folds(pool, kind, outer["count"], split.seed, source.groups)
    rest, left_out = folds[outer["index"]]
    return Parted(source=source, splits={"train": rest, "test": left_out})
