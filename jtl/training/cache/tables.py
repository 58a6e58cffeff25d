"""Tables of rows in device memory, in main memory, or in a file that is whole or rebuilt."""

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jtl.engine.parallel import Placement
from jtl.errors import CheckpointError
from jtl.training.cache.options import Where
from jtl.training.files import read_json, write_json


class Table(Protocol):
    """Rows `[blocks × length, ...]`, filled block by block."""

    @property
    def rows(self) -> Any:
        """All rows, where they lie: on the devices, or as an array of the host."""
        ...

    @property
    def complete(self) -> set[int]:
        """The blocks that are filled."""
        ...

    @property
    def note(self) -> str:
        """What was found at the start and is worth a line; empty otherwise."""
        ...

    def write(self, start: int, rows: jax.Array) -> None:
        """Puts rows, `[count, ...]`, at their place; those of a block come in order."""
        ...

    def finish(self, block: int) -> None:
        """Says that all rows of a block are written."""
        ...

    def close(self) -> None:
        """Gives back what the table takes; it is not needed any more."""
        ...


class DeviceTable:
    """Rows in the memory of every device."""

    note = ""

    def __init__(
        self, place: Placement, *, blocks: int, length: int, row: jax.ShapeDtypeStruct
    ) -> None:
        self.complete: set[int] = set()
        everywhere = place.put_state(jnp.zeros(())).sharding
        shape = (blocks * length, *row.shape)
        self.rows = jax.jit(lambda: jnp.zeros(shape, row.dtype), out_shardings=everywhere)()
        self._write = jax.jit(_overwrite, donate_argnums=0, out_shardings=everywhere)

    def write(self, start: int, rows: jax.Array) -> None:
        """Puts rows at their place without leaving the devices."""
        self.rows = self._write(self.rows, rows, np.int32(start))

    def finish(self, block: int) -> None:
        """Says that a block is written."""
        self.complete.add(block)

    def close(self) -> None:
        """Frees the memory."""
        self.rows.delete()


def _overwrite(table: jax.Array, rows: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(table, rows, start, axis=0)


class HostTable:
    """Rows in main memory."""

    note = ""

    def __init__(self, *, blocks: int, length: int, row: jax.ShapeDtypeStruct) -> None:
        self.complete: set[int] = set()
        self.rows = np.empty((blocks * length, *row.shape), row.dtype)

    def write(self, start: int, rows: jax.Array) -> None:
        """Puts rows at their place."""
        self.rows[start : start + len(rows)] = np.asarray(rows)

    def finish(self, block: int) -> None:
        """Says that a block is written."""
        self.complete.add(block)

    def close(self) -> None:
        """Frees the memory."""
        self.rows = self.rows[:0].copy()


class FileTable:
    """Rows in a file that is mapped into memory, with a manifest that says which blocks hold.

    A block counts once its bytes are on the disk and the manifest, replaced in one step, has
    their digest. One that was made for another key or does not have the bytes that the manifest
    says is filled again.

    Args:
        path: of the file; the manifest lies beside it as `.json`.
        key: of what the rows are a function of.
        blocks: how many.
        length: rows of each.
        row: shape and dtype of one.

    Raises:
        CheckpointError: the file cannot be written.
    """

    def __init__(
        self, path: Path, key: str, *, blocks: int, length: int, row: jax.ShapeDtypeStruct
    ) -> None:
        self._path, self._manifest = path, path.with_suffix(".json")
        shape = (blocks * length, *row.shape)
        self._row_bytes = int(np.prod(row.shape)) * np.dtype(row.dtype).itemsize
        self._block_bytes = length * self._row_bytes
        self._record: dict[str, Any] = {
            "key": key,
            "shape": list(shape),
            "dtype": str(row.dtype),
            "blocks": {},
        }
        self._digest = hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if path.exists() else "w+b")
            self.note = self._verify(blocks)
            self._file.truncate(blocks * self._block_bytes)
        except OSError as error:
            raise _unwritable(path, error) from error
        self.rows: np.ndarray = np.memmap(path, row.dtype, "r", shape=shape)

    @property
    def complete(self) -> set[int]:
        """The blocks that are filled."""
        return {int(block) for block in self._record["blocks"]}

    def write(self, start: int, rows: jax.Array) -> None:
        """Writes rows at their place."""
        content = np.ascontiguousarray(rows).tobytes()
        self._digest.update(content)
        try:
            # Not through the map, where a full disk would end the process.
            self._file.seek(start * self._row_bytes)
            self._file.write(content)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def finish(self, block: int) -> None:
        """Makes a block durable, then says so in the manifest."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._record["blocks"][str(block)] = self._digest.hexdigest()
        self._digest = hashlib.sha256()
        write_json(self._manifest, self._record)

    def close(self) -> None:
        """Removes the file."""
        self._file.close()
        self._manifest.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _verify(self, blocks: int) -> str:
        """Takes over the blocks that are as their manifest says."""
        if not self._manifest.exists():
            return ""
        try:
            found = read_json(self._manifest)
        except CheckpointError:
            return f"{self._manifest} is damaged, so all is computed again"
        if any(found.get(name) != self._record[name] for name in ("key", "shape", "dtype")):
            return ""
        wrong = []
        for block in range(blocks):
            said = found.get("blocks", {}).get(str(block))
            if said is None:
                continue
            if self._digest_of(block) == said:
                self._record["blocks"][str(block)] = said
            else:
                wrong.append(str(block))
        return f"{self._path} is damaged, so part of it is computed again" if wrong else ""

    def _digest_of(self, block: int) -> str:
        total, left = hashlib.sha256(), self._block_bytes
        self._file.seek(block * self._block_bytes)
        while left and (content := self._file.read(min(left, 2**22))):
            total.update(content)
            left -= len(content)
        return total.hexdigest()


def make_table(
    where: Where,
    place: Placement,
    path: Path,
    key: str,
    *,
    blocks: int,
    length: int,
    row: jax.ShapeDtypeStruct,
) -> Table:
    """An empty table, or the file of an earlier start.

    Args:
        where: rows are kept.
        place: whose devices.
        path: of a file.
        key: of what the rows are a function of.
        blocks: how many.
        length: rows of each.
        row: shape and dtype of one.

    Raises:
        CheckpointError: the file cannot be written.
    """
    if where == "device":
        return DeviceTable(place, blocks=blocks, length=length, row=row)
    if where == "host":
        return HostTable(blocks=blocks, length=length, row=row)
    return FileTable(path, key, blocks=blocks, length=length, row=row)


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be written ({error.strerror}); make room or rights, or set train.cache=off."
    )
