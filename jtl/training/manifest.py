"""The manifest of a saved step: the SHA-256 of each of its files, written and synced last."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from jtl.training.file_digests import digest_of, each

NAME = "manifest.json"


def write_manifest(
    folder: Path, about: Mapping[str, str], digest: Callable[[int], str] = digest_of
) -> None:
    """Makes what stands in a folder durable, then says so in a manifest that is durable too.

    Args:
        folder: of one step; its files and folders are synced first.
        about: what else the manifest keeps.
        digest: of an open file.
    """

    def settle(path: Path) -> str:
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            return digest(file.fileno())

    paths = list(_regular_files(folder))
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = dict(zip(names, each(settle, paths), strict=True))
    for parent, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(parent))
    beside = folder / f".{NAME}.tmp"
    with beside.open("wb") as file:
        file.write(_rendered({"about": dict(about), "files": files}))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / NAME)
    sync_folder(folder)
    sync_folder(folder.parent)


def has_manifest(folder: Path) -> bool:
    """Whether the saving of a step came to its end, be it damaged since or not."""
    return (folder / NAME).is_file()


def about(folder: Path) -> dict[str, str]:
    """What else the manifest of a whole folder keeps."""
    record = json.loads((folder / NAME).read_bytes().partition(b"\n")[0])
    found: dict[str, str] = record["about"]
    return found


def damage(folder: Path) -> list[str]:
    """What in a step's folder is not as it was when its manifest was written; none if whole."""
    try:
        text = (folder / NAME).read_bytes()
        record = json.loads(text.partition(b"\n")[0])
        if (folder / NAME).is_symlink() or text != _rendered(record):
            return [f"{NAME} is damaged"]
        expected: dict[str, str] = record["files"]
        found = {path.relative_to(folder).as_posix(): path for path in _entries(folder)}
    except FileNotFoundError:
        return [f"{NAME} is missing"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{NAME} is damaged"]
    found.pop(NAME)
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} does not belong there" for name in found if name not in expected]
    there = [name for name in expected if name in found]
    digests = each(_digest_of, [found[name] for name in there])
    return lines + [
        f"{name} is damaged"
        for name, own in zip(there, digests, strict=True)
        if own != expected[name]
    ]


def remove(path: Path) -> None:
    """Removes a step or what is left of one; cut off, it leaves what counts as half written."""
    if path.is_dir() and not path.is_symlink():
        (path / NAME).unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rendered(record: Mapping[str, object]) -> bytes:
    # The second line is the digest of the first, so that damage to either is noticed.
    body = json.dumps(record, sort_keys=True).encode()
    return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _entries(folder: Path) -> Iterator[Path]:
    """Whatever is no folder, links to folders included."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from (Path(parent) / name for name in sorted([*names, *links]))


def _regular_files(folder: Path) -> Iterator[Path]:
    yield from (path for path in _entries(folder) if path.name != NAME)


def _digest_of(path: Path) -> str | None:
    """The digest of a regular file; None of a link, and of what cannot be read."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            with path.open("rb", buffering=0) as file:
                return digest_of(file.fileno())
    return None
