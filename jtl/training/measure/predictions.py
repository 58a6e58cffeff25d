"""What a network said of a split's examples, one by one, and the file that keeps it."""

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jtl.errors import CheckpointError
from jtl.training.files import write_bytes

_PER_SPLIT = ("logits", "label", "example", "name")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits become the probabilities and the labels that people are told.

    Attributes:
        temperature: logits are divided by it.
        thresholds: of images with several labels, the probability from which on each class is
            predicted; None is 0.5 for all.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None


RAW = Calibration()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a network said of the examples of one split.

    Attributes:
        logits: float32 `[examples, classes]`.
        label: int32 `[examples]`; or float32 `[examples, classes]` of 0 and 1 where images may
            have several labels.
        example: int32 `[examples]`, its place in the source.
        name: str `[examples]`, what the source calls it, such as its path.
        classes: the name of each class.
        several: whether images may have several labels.
    """

    logits: np.ndarray
    label: np.ndarray
    example: np.ndarray
    name: np.ndarray
    classes: tuple[str, ...]
    several: bool = False

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.logits)

    def probabilities(self, calibration: Calibration = RAW) -> np.ndarray:
        """Float64 `[examples, classes]`; rows sum to 1 unless images may have several labels."""
        logits = self.logits.astype(np.float64) / calibration.temperature
        return sigmoid(logits) if self.several else np.exp(log_softmax(logits))

    def chosen(self, calibration: Calibration = RAW) -> np.ndarray:
        """Bool `[examples, classes]`: the most probable class, or all from their threshold on."""
        if self.several:
            limits = 0.5 if calibration.thresholds is None else np.array(calibration.thresholds)
            return self.probabilities(calibration) >= limits
        best = np.argmax(self.logits, axis=-1)
        return best[:, None] == np.arange(self.logits.shape[-1])[None]

    @property
    def truth(self) -> np.ndarray:
        """Bool `[examples, classes]`: the labels."""
        if self.label.ndim == 2:
            return self.label > 0.5
        return self.label[:, None] == np.arange(self.logits.shape[-1])[None]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithm of softmax over the last axis, in the logits' precision."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def write_predictions(path: Path, splits: Mapping[str, Predictions]) -> None:
    """Replaces a file by the predictions of some splits, all of the same classes.

    An `.npz` of `classes`, `several` and, for each split, `SPLIT_logits`, `SPLIT_label`,
    `SPLIT_example` and `SPLIT_name`, as `Predictions` documents them.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, own in splits.items():
        arrays["classes"], arrays["several"] = np.array(own.classes), np.array(own.several)
        arrays |= {f"{split}_{field}": getattr(own, field) for field in _PER_SPLIT}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def read_predictions(path: Path, split: str) -> Predictions | None:
    """What a file keeps of a split; None where it keeps nothing of it, or there is no file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            if f"{split}_logits" not in kept:
                return None
            return Predictions(
                **{field: kept[f"{split}_{field}"] for field in _PER_SPLIT},
                classes=tuple(str(name) for name in kept["classes"]),
                several=bool(kept["several"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); delete it, and what it held is computed again."
        ) from error
