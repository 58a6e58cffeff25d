"""Options of every kind that a room may declare, for the tests of reading and checking."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Len
from pydantic import AllowInfNan, Field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent.

    Attributes:
        kind: which optimizer.
        rate: the learning rate at its peak,
            before any schedule.
        momentum: fraction in [0, 1).
    """

    kind: Literal["sgd"] = "sgd"
    rate: Annotated[float, Gt(0)] = 0.1
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adamw:
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    rate: Annotated[float, Gt(0)] = 1  # an integer on purpose: it must come out as 1.0
    betas: tuple[float, float] = (0.9, 0.999)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of a training."""

    epochs: Annotated[int, Ge(1)]
    freeze: str | tuple[str, ...] = "backbone"
    clip: Annotated[float, Gt(0)] | None = None
    limit: Annotated[float, AllowInfNan(True)] = 0.0

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip > self.epochs:
            raise ValueError("clip must not exceed epochs.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How long, and in which phases."""

    phases: tuple[Phase, ...] = (Phase(epochs=1),)
    optimizer: Sgd | Adamw = Sgd()
    tagged: Annotated[Sgd | Adamw, Field(discriminator="kind")] = Sgd()
    batch_size: int = 8
    shuffle: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    """Everything together."""

    train: Train = Train()
    seed: int = 0
    name: str = "run"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    folder: Path = Path("data")
    class_weights: dict[int, float] = dataclasses.field(default_factory=dict)
    mean: Annotated[tuple[float, ...], Len(1, 3)] = (0.5,)
    schedule: Annotated[float, Gt(0)] | Literal["auto"] | None = None
