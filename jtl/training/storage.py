"""Object storage: the objects below one address, whole or absent, with errors that say where."""

import base64
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jtl.errors import CheckpointError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # a `Path` has lost the second slash
# By scheme: what serves it, and the extra that installs that.
_SERVED = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3"), "memory": ("fsspec", None)}


def is_address(place: object) -> bool:
    """Whether this is an address of object storage, and not a folder."""
    return _SCHEME.match(str(place)) is not None


def refuse_address(place: str | Path | None) -> None:
    """Refuses an address where only a folder will do.

    Raises:
        CheckpointError: it is one.
    """
    if place is not None and is_address(place):
        address = re.sub(r":/+", "://", str(place), count=1)
        raise CheckpointError(
            f"{address} is an address of object storage, where only jtl train keeps its runs: give "
            "a folder, or mount the storage (as gcsfuse or mountpoint-s3 do)."
        )


class ObjectStorage:
    """The objects below an address such as `gs://bucket/runs/mine`, by their names from there.

    Args:
        address: with a scheme that is served.

    Raises:
        CheckpointError: the scheme is not served, or what serves it is not installed.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = re.sub(r":/+", "://", str(address), count=1).rstrip("/")
        self._files = _file_system(self.address)
        self._root: str = self._files._strip_protocol(self.address).rstrip("/")

    def sizes(self, below: str = "") -> dict[str, int]:
        """The names of the objects there are, with their sizes in bytes.

        Args:
            below: only those whose names begin with this folder.

        Raises:
            CheckpointError: the storage does not answer, or a name leads elsewhere.
        """
        place = f"{self._root}/{below}".rstrip("/")
        with self._told("cannot be listed"):
            self._files.invalidate_cache()
            try:
                found = self._files.find(place, detail=True)
            except FileNotFoundError:
                return {}
        names = {
            name.removeprefix(self._root).strip("/"): int(record["size"])
            for name, record in found.items()
            if name.startswith(f"{place}/") and not name.endswith("/")  # consoles' empty folders
        }
        if wrong := [name for name in names if {"", ".", ".."} & set(name.split("/"))]:
            raise CheckpointError(
                f"{self.address} holds {wrong[0]!r}, which names no file of a run."
            )
        return names

    def top(self, prefix: str = "") -> list[str]:
        """The names of what stands at the address itself, objects and folders, that begin so.

        Raises:
            CheckpointError: the storage does not answer.
        """
        with self._told("cannot be listed"):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        names = (name.removeprefix(self._root).strip("/") for name in found)
        return sorted(name for name in names if name and name.startswith(prefix))

    def read(self, name: str) -> bytes | None:
        """What an object holds; None where there is none.

        Raises:
            CheckpointError: the storage does not answer.
        """
        with self._told("cannot be read", name):
            try:
                content: bytes = self._files.cat_file(self._at(name))
            except FileNotFoundError:
                return None
            return content

    def download(self, name: str, path: Path) -> None:
        """Writes what an object holds to a file, whose folders are made.

        Raises:
            CheckpointError: the object is not there, or the file cannot be written.
        """
        with self._told("cannot be fetched", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
            try:
                self._files.get_file(self._at(name), str(beside))
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)

    def upload(self, path: Path, name: str) -> None:
        """Replaces an object by what a file holds, and sees that all of it has arrived.

        Raises:
            CheckpointError: it has not.
        """
        with self._told("cannot be written", name):
            self._files.put_file(str(path), self._at(name))
            with path.open("rb") as file:
                own = hashlib.file_digest(file, _md5)
                self._confirm(name, file.tell(), own.digest())

    def write(self, name: str, content: bytes) -> None:
        """Replaces an object by these bytes, and sees that all of them have arrived.

        Raises:
            CheckpointError: they have not.
        """
        with self._told("cannot be written", name):
            self._files.pipe_file(self._at(name), content)
            self._confirm(name, len(content), _md5(content).digest())

    def create(self, name: str, content: bytes) -> bool:
        """Makes an object of which there must be none; whether it was made by this call.

        Raises:
            CheckpointError: the storage does not answer.
        """
        with self._told("cannot be written", name):
            try:
                self._files.pipe_file(self._at(name), content, mode="create")
            except FileExistsError:
                # An answer may be lost, and the request sent again by what serves the scheme.
                return self.read(name) == content
            return True

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects, one after the other; those that are gone already are passed over.

        Raises:
            CheckpointError: one cannot be removed.
        """
        for name in names:
            with self._told("cannot be removed", name), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _confirm(self, name: str, size: int, md5: bytes) -> None:
        self._files.invalidate_cache()
        found = self._files.info(self._at(name))
        if found["size"] != size:
            raise OSError(f"{found['size']} of {size} bytes have arrived")
        # Google's storage says what it has taken in; s3fs has its requests checked on arrival.
        if found.get("md5Hash") not in (None, base64.b64encode(md5).decode()):
            raise OSError("it has arrived damaged")

    @contextlib.contextmanager
    def _told(self, what: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # each library below raises of its own kinds
            first = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
            if isinstance(error, FileNotFoundError):  # whose text is an address at most
                first = "it is not there, or no such bucket is"
            place = f"{self.address}/{name}".rstrip("/")
            raise CheckpointError(f"{place} {what} ({first}).") from error


def _md5(content: bytes = b"") -> Any:
    return hashlib.md5(content, usedforsecurity=False)  # against accidents, as storage has it


def _file_system(address: str) -> Any:
    scheme, _, rest = address.partition("://")
    if scheme not in _SERVED or not rest.strip("/"):
        raise CheckpointError(
            f"{address} is no folder and no address that is served: give a folder, or "
            "gs://BUCKET/FOLDER or s3://BUCKET/FOLDER."
        )
    import fsspec

    package, extra = _SERVED[scheme]
    try:
        # What one process has seen is not taken for what is there: others write as well.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise CheckpointError(
            f"{scheme}:// needs {package}, which is not installed: pip install 'jtl[{extra}]'."
        ) from error
    except Exception as error:  # such as credentials that cannot be read
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{address} cannot be reached ({first}).") from error
