"""What one contest is about: a network, what of it is trained, and on which batches."""

import dataclasses
import json
from typing import Any

import numpy as np

CLASSES = 10
# What is frozen, by what is trained; a cached head takes features that were computed before.
FREEZE = {
    "full": "none",
    "last stage": "stem..layer3",
    "head only": "backbone",
    "cached head": "backbone",
}
LAST_STAGE = {"vgg16": "block1..block4", "inception_v3": "stem..mixed6"}
WIDTHS = {"vgg16": 4096, "resnet18": 512}  # of the features that a head takes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One question of a table.

    Attributes:
        network: by torchvision's name.
        trained: a key of `FREEZE`.
        precision: of the computation: `float32`, `tf32` or `bfloat16`.
        batch: images a step.
        pixels: a side.
        remat: stages that are computed again in the backward pass; jtl's side alone.
    """

    network: str
    trained: str
    precision: str
    batch: int
    pixels: int
    remat: tuple[str, ...] = ()

    @property
    def freeze(self) -> str:
        """Jtl's freeze spec."""
        if self.trained == "last stage":
            return LAST_STAGE.get(self.network, FREEZE["last stage"])
        return FREEZE[self.trained]

    @property
    def cached(self) -> bool:
        """Whether the batch holds features in place of images."""
        return self.trained == "cached head"

    @property
    def width(self) -> int:
        """Of the features that the head takes."""
        return WIDTHS.get(self.network, 2048)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Images, or features, float32 with channels last; and labels, int32."""
        rng = np.random.default_rng(0)
        shape = (self.width,) if self.cached else (self.pixels, self.pixels, 3)
        images = rng.standard_normal((self.batch, *shape), np.float32)
        return images, rng.integers(0, CLASSES, self.batch).astype(np.int32)

    def to_json(self) -> str:
        """For the command line of a side's process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Cell":
        """What `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "remat": tuple(fields["remat"])})
