"""Steps read here, or by Grain in processes that end with the one that they work for."""

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from typing import Any, Protocol

from jtl.data.sources.protocol import Arrays
from jtl.errors import DataError

_LOOK = 1.0  # seconds between two looks whether the process that is worked for lives


class Steps(Protocol):
    """What can be read of any step by itself."""

    def __getitem__(self, step: int) -> Arrays:
        """One step's arrays."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Range:
    steps: Steps
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, place: int) -> Arrays:
        return self.steps[self.start + int(place)]


def read_steps(steps: Steps, start: int, stop: int, workers: int) -> Generator[Arrays, None, None]:
    """The steps from `start` to `stop` in order, whoever reads them.

    Grain is begun anew at `start`, so that its own notion of a position, which ties a reader to
    its number of workers, is never stored.

    Args:
        steps: what is read.
        start: the first step.
        stop: the step after the last.
        workers: processes; 0 reads in this one, when a step is asked for.

    Raises:
        DataError: as the steps do; or a process ended that should not have.
    """
    if workers and start < stop:
        yield from _from_processes(_Range(steps=steps, start=start, stop=stop), workers)
        return
    for step in range(start, stop):
        yield steps[step]


def _from_processes(steps: _Range, workers: int) -> Generator[Arrays, None, None]:
    import grain  # half a second, where one process reads by itself

    _parse_no_flags()
    here = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    # Batches come through pipes: shared memory outlives a process that is killed, and runs out in
    # containers.
    piped = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    dataset: Any = grain.MapDataset.source(steps).to_iter_dataset(here)
    dataset = grain.experimental.WithOptionsIterDataset(dataset, piped)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    dataset = dataset.mp_prefetch(options, worker_init_fn=_Watch(parent=os.getpid()))
    iterator = iter(dataset)
    try:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if "terminated unexpectedly" not in str(error):
                    raise
                raise DataError(
                    f"a process that reads data has ended ({error}); it was killed, or memory ran "
                    "out: set data.read.workers lower, or 0, and go on with --resume."
                ) from error
            yield batch
    finally:
        iterator.close()


@dataclasses.dataclass(frozen=True)
class _Watch:
    """Begins a reading process: it ends when its parent does, and never takes an accelerator."""

    parent: int

    def __call__(self, index: int, count: int) -> None:
        del index, count
        os.environ["JAX_PLATFORMS"] = "cpu"
        # An interrupt is for the parent, which ends its readers itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._end_with_parent, daemon=True).start()

    def _end_with_parent(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(_LOOK)
        os._exit(0)


def _parse_no_flags() -> None:
    """Grain reads absl's flags, which a program that has none never parses."""
    from absl import flags

    known: Any = flags.FLAGS
    if not known.is_parsed():
        known.mark_as_parsed()
