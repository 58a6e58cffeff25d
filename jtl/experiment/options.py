"""The whole config, composed from the options of each room, and the recipes that come with jtl."""

import dataclasses
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval, Lt

from jtl.config import Document, build, override, read_document
from jtl.data.augment import AugmentOptions
from jtl.data.options import DataOptions
from jtl.errors import ConfigError
from jtl.training.options import TrainOptions
from jtl.tree import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network, and where its parameters come from.

    Attributes:
        name: an architecture that `jtl models` lists.
        weights: a file, a name from the catalogue, or null for random parameters.
        head: `auto` keeps the head if it has as many classes as the data, `keep` insists on
            it, `init` draws a new one, `match` keeps the rows of classes of the same name.
        dropout_rate: before the head; a phase may set its own.
        drop_path_rate: of residual branches.
        precision: of the computation. Parameters, statistics, losses and sums are float32
            always; `float16` scales the loss.
        remat: stages whose activations are computed again in the backward pass, not kept.
    """

    name: str = "resnet_mini"
    weights: str | None = "glyphs"
    head: Literal["auto", "keep", "init", "match"] = "init"
    dropout_rate: Annotated[float, Interval(ge=0), Lt(1)] = 0.0
    drop_path_rate: Annotated[float, Interval(ge=0), Lt(1)] = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run is a function of.

    Attributes:
        name: of the run; its folder is `runs/NAME` unless another is given.
        seed: of shots, order, augmentation, dropout and new parameters.
        model: the network and its weights.
        data: the examples.
        augment: how training images are varied.
        train: phases and rates.
    """

    name: str = "run"
    seed: Annotated[int, Ge(0)] = 0
    model: ModelOptions = ModelOptions()
    data: DataOptions = DataOptions()
    augment: AugmentOptions = AugmentOptions()
    train: TrainOptions = TrainOptions()


def recipes() -> dict[str, Path]:
    """The bundled recipes by name, wherever jtl is installed."""
    package = Path(str(files("jtl")))
    folders = (package / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if (folder / "digits.yaml").exists()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_config(recipe: str, assignments: Sequence[str] = ()) -> Config:
    """The config of a file or a bundled recipe, with overrides.

    Args:
        recipe: a path to a YAML file, or the name of a bundled recipe.
        assignments: overrides such as `train.phases.0.epochs=3`.

    Raises:
        ConfigError: there is no such recipe (near ones are named), or options are wrong, all
            of them at once with where they were written.
    """
    return build(Config, override(_document(recipe), assignments))


def _document(recipe: str) -> Document:
    known = recipes()
    if recipe in known:
        return read_document(known[recipe])
    path = Path(recipe)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return read_document(path)
    near = nearest(recipe, known)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"there is no recipe {recipe!r} and no file of that name; the recipes are "
        f"{', '.join(known)}.{hint}"
    )
