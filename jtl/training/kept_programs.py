"""Compiled steps on disk, found by what they are made of: the next start need not trace them."""

import contextlib
import hashlib
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from jtl.errors import CheckpointError
from jtl.training.files import write_bytes, write_text
from jtl.weights.cache import cache_folder, keep_newest

_MOST = 64  # programs that are kept; those that were used longest ago go first
_DIGEST = hashlib.sha256().digest_size


class KeptProgram:
    """A compiled program that was read, called as the one that was written.

    Args:
        flat: takes and gives the leaves alone.
        results: the pickled structure of the results.
    """

    def __init__(self, flat: Callable[..., Any], results: bytes) -> None:
        self._flat, self._results = flat, pickle.loads(results)
        self._arguments: Any = None

    def __call__(self, *args: Any) -> Any:
        """What the program gives for arguments of the structure that it was first called with.

        Raises:
            TypeError: these have another structure, other shapes or dtypes; nothing has run.
        """
        leaves, structure = jax.tree.flatten(args)
        if self._arguments is None:
            self._arguments = structure
        elif structure != self._arguments:
            raise TypeError("arguments of another structure")
        return jax.tree.unflatten(self._results, self._flat(*leaves))


class KeptPrograms:
    """Compiled programs by their keys; the one that a run asks for first is read before it does.

    Like every compiled program these are code: the folder is to be as safe as the user's own
    programs are. One that is damaged, or that this JAX cannot read, counts as missing.

    Args:
        folder: where they lie, made when the first is written.
        run: what tells this run from others; which program it asks for first is noted under that.
    """

    def __init__(self, folder: Path, run: Sequence[str]) -> None:
        name = hashlib.sha256("\0".join(run).encode()).hexdigest()
        self._folder, self._note = folder, folder / f"{name}.first"
        self._expected = ""
        self._found: tuple[Callable[..., Any], bytes] | None = None
        with contextlib.suppress(OSError, ValueError):
            self._expected = self._note.read_text("ascii")
        self._asked = False
        # XLA builds a program anew in threads of its own, while Python makes the run ready.
        self._threads = [threading.Thread(target=self._read_ahead)]
        self._threads[0].start()

    @classmethod
    def of(cls, *run: str) -> "KeptPrograms":
        """Those in jtl's cache folder."""
        return cls(cache_folder() / "steps", run)

    def __enter__(self) -> "KeptPrograms":
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def find(self, key: str) -> KeptProgram | None:
        """The program of a key, or None."""
        asked, self._asked = self._asked, True
        if not asked:
            self._threads[0].join()
            if key != self._expected:
                self._attempt(lambda: write_text(self._note, key))
        found = self._found if not asked and key == self._expected else self._read(key)
        self._found = None
        with contextlib.suppress(Exception):  # of classes that have gone since
            return None if found is None else KeptProgram(*found)
        return None

    def keep(self, key: str, program: jax.stages.Compiled, devices: Sequence[jax.Device]) -> None:
        """Writes a program of these devices, while the caller goes on with it."""
        about = (devices[0].platform, [device.id for device in devices])
        self._threads.append(threading.Thread(target=self._write, args=(key, program, about)))
        self._threads[-1].start()

    def drop(self, key: str) -> None:
        """Removes a program, so that nobody finds it again."""
        self._attempt(lambda: self._path(key).unlink(missing_ok=True))

    def _read_ahead(self) -> None:
        if self._expected:
            self._found = self._read(self._expected)

    def _read(self, key: str) -> tuple[Callable[..., Any], bytes] | None:
        """A program with the leaves of its arguments and results in a row.

        So that none of their classes need be imported, in a thread beside other imports.
        """
        path = self._path(key)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                return None
            with contextlib.suppress(OSError):  # of a folder that is only read
                os.utime(path)
            code, (platform, ids), taken, given, results = pickle.loads(data[_DIGEST:])
            known = {device.id: device for device in jax.devices(platform)}
            program = deserialize_and_load(
                code,
                jax.tree.structure(((0,) * taken, {})),
                jax.tree.structure((0,) * given),
                execution_devices=[known[own] for own in ids],
            )
            return program, results
        except Exception:  # whatever it is, the program is made once more and written over it
            return None

    def _write(
        self, key: str, program: jax.stages.Compiled, devices: tuple[str, list[int]]
    ) -> None:
        try:
            code, arguments, results = serialize(program)
            counts = (arguments.num_leaves, results.num_leaves)
            data = pickle.dumps((code, devices, *counts, pickle.dumps(results)))
        except Exception:  # of a compiler, or of constants, that have no such form
            return
        self._attempt(lambda: write_bytes(self._path(key), hashlib.sha256(data).digest() + data))
        for pattern in ("*.program", "*.first", ".*.tmp"):  # the last of writers that were killed
            keep_newest(self._folder, pattern, _MOST)

    def _attempt(self, write: Callable[[], None]) -> None:
        # A full or a read-only folder costs the next start its time, and nothing else.
        with contextlib.suppress(OSError, CheckpointError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.program"
