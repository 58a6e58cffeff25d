"""The records of a TFDS dataset's files by number, from ArrayRecord and from TFRecord files."""

import bisect
import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.sources.listing import open_regular
from jtl.data.sources.names import shown
from jtl.data.sources.tfrecord import read_record
from jtl.errors import ChangedDataError, DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One file as it was when it was listed; fit for ArrayRecord's own source.

    Attributes:
        filename: its whole path.
        skip: records at its start that are not taken.
        take: records that are.
        examples_in_shard: records that it holds.
        size: bytes.
        mtime: when it was last written, nanoseconds.
        starts: where its records begin, int64 `[records + 1]`, bytes; None in ArrayRecord files,
            which know that themselves.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int
    size: int
    mtime: int
    starts: np.ndarray | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Records of many files by number; opened when they are first read, anew in each process.

    Attributes:
        shards: in the order of the records.
    """

    shards: Sequence[Shard]

    def __len__(self) -> int:
        """The number of records."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """One record as it is stored.

        Raises:
            DataError: it cannot be read, or its file is not what it was when it was listed.
        """
        shard = bisect.bisect_right(self._ends, index)
        own = self.shards[shard]
        place = index - (self._ends[shard] - own.take) + own.skip
        return self._reader(shard)(place)

    def shard(self, index: int) -> Shard:
        """The file that a record lies in."""
        return self.shards[bisect.bisect_right(self._ends, index)]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(shard.take for shard in self.shards))

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: no open file."""
        return {"shards": self.shards}

    def _reader(self, number: int) -> Callable[[int], bytes]:
        opened = self._opened
        if opened.process != os.getpid():
            # A forked process must not read through what its parent has opened.
            opened = self.__dict__["_opened"] = _Opened()
        if number not in opened.readers:
            with opened.lock:
                if number not in opened.readers:
                    opened.readers[number] = _open(self.shards[number])
        return opened.readers[number]

    @cached_property
    def _opened(self) -> "_Opened":
        return _Opened()


@dataclasses.dataclass(frozen=True)
class _Opened:
    """What one process has opened."""

    process: int = dataclasses.field(default_factory=os.getpid)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    readers: dict[int, Callable[[int], bytes]] = dataclasses.field(default_factory=dict)


def _open(shard: Shard) -> Callable[[int], bytes]:
    if shard.starts is not None:
        return partial(_read_tfrecord, shard, shard.starts)
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        _check_unchanged(shard, Path(shard.filename).stat())
        # What a builder's `as_data_source` reads with; of the whole file, whose places are asked.
        whole = dataclasses.replace(shard, skip=0, take=shard.examples_in_shard)
        source = ArrayRecordDataSource(whole)
    except OSError as error:
        raise _changed(shard, f"it cannot be opened ({error.strerror})") from error
    return partial(_read_array_record, shard, source)


def _read_array_record(shard: Shard, source: Any, place: int) -> bytes:
    try:
        return source[place]
    except Exception as error:  # they have no common base
        raise DataError(
            f"{shown(shard.filename)} cannot be read as ArrayRecord: {error}; if it is damaged, "
            "delete the dataset's folder and prepare it anew."
        ) from error


def _read_tfrecord(shard: Shard, starts: np.ndarray, place: int) -> bytes:
    # Opened for each record, which takes microseconds: a dataset may have more files than a
    # process may hold open.
    try:
        with open_regular(shard.filename) as (descriptor, status):
            _check_unchanged(shard, status)
            start, stop = int(starts[place]), int(starts[place + 1])
            return read_record(descriptor, shard.filename, start, stop)
    except OSError as error:
        raise _changed(shard, f"it cannot be opened ({error.strerror})") from error


def _check_unchanged(shard: Shard, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime):
        raise _changed(shard, "it was written to after it was listed")


def _changed(shard: Shard, how: str) -> ChangedDataError:
    return ChangedDataError(
        f"{shown(shard.filename)} was changed while the dataset was in use: {how}; start again "
        "once nothing writes there."
    )
