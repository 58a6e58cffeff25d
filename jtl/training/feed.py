"""What the loop trains on and validates with: batches on the devices, phase by phase."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

import numpy as np

from jtl.data.ahead import read_ahead
from jtl.data.pipeline import READERS
from jtl.data.sources.protocol import Arrays
from jtl.engine.boundary import TailStep
from jtl.engine.parallel import Placement
from jtl.engine.state import TrainState
from jtl.errors import DataError
from jtl.training.evaluate import Evaluation

_WAITING = 2  # placed batches, so that one that is read slowly does not hold up the step
Validate = Callable[[Any], Evaluation]


class Feed(Protocol):
    """Where a phase's batches come from, and how it is validated."""

    def enter(self, phase: int, state: TrainState) -> TailStep | None:
        """Begins a phase, or goes on with it, from a whole and plain state.

        Returns:
            The step that takes these batches, in place of the phase's own; None for that.
        """
        ...

    def batches(self, phase: int, start: int, stop: int) -> Generator[Any, None, None]:
        """The placed batches of steps `start` to `stop`, all within one phase."""
        ...

    def validate(self, phase: int, variables: Any) -> Evaluation | None:
        """The evaluation of the validation split for placed variables; None without a split."""
        ...

    def close(self) -> None:
        """Ends a run that came to its end; what it needed for its next start may go."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Streamed:
    """Every batch read, prepared and run through the whole network.

    Attributes:
        read: the host's batches of steps `start` to `stop`, each once it is asked for.
        place: where steps run.
        classes: how many there are, which labels are checked against.
        check: evaluates the validation split, or None where there is none.
        timeout: seconds without a batch after which reading ahead is given up; None waits for
            ever.
        ahead: whether a thread reads batches while one is in use. Of images in memory it takes
            longer to hand a batch on than to copy it.
    """

    read: Callable[[int, int], Generator[Arrays, None, None]]
    place: Placement
    classes: int
    check: Validate | None
    timeout: float | None = None
    ahead: bool = True

    def enter(self, phase: int, state: TrainState) -> TailStep | None:
        """Begins a phase, whose own step is taken."""
        del phase, state
        return None

    def batches(self, phase: int, start: int, stop: int) -> Generator[Any, None, None]:
        """The placed batches of steps `start` to `stop`.

        Where they are read ahead one thread does both: to hand a small batch from thread to
        thread takes longer than to place it, and a large one is copied to a device by the
        device's own threads.

        Raises:
            DataError: an image cannot be read, a label is no class, or no batch was read ahead in
                time.
        """
        del phase
        placed = self._placed(start, stop)
        if not self.ahead:
            return placed  # a device is still at work on the steps before, whatever this takes
        return read_ahead(placed, self.timeout, READERS, depth=_WAITING)

    def _placed(self, start: int, stop: int) -> Generator[Any, None, None]:
        with contextlib.closing(self.read(start, stop)) as batches:
            for batch in batches:
                check_labels(batch, self.classes)
                yield self.place.put_batch(batch)

    def validate(self, phase: int, variables: Any) -> Evaluation | None:
        """The evaluation of the validation split for placed variables; None without a split."""
        del phase
        return None if self.check is None else self.check(variables)

    def close(self) -> None:
        """Ends a run; there is nothing to give back."""


def check_labels(batch: Mapping[str, Any], classes: int) -> None:
    """Refuses a batch whose labels reach past the classes.

    Raises:
        DataError: naming the first such example and its label.
    """
    label = np.asarray(batch["label"])
    if not np.issubdtype(label.dtype, np.integer):
        if label.shape[-1] != classes:
            raise DataError(
                f"a batch has labels of {label.shape[-1]} classes, but the network has {classes}; "
                "give both the same classes."
            )
        return
    if label.min() >= 0 and label.max() < classes:
        return
    wrong = int(np.flatnonzero((label < 0) | (label >= classes))[0])
    example = int(batch["example"][wrong]) if "example" in batch else wrong
    raise DataError(
        f"example {example} has the label {label[wrong]}, but there are {classes} classes, 0 to "
        f"{classes - 1}; mend the label, or name all classes."
    )
