"""Who writes to a run's folder: one process at a time, named to whoever comes second."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jtl.errors import CheckpointError

NAME = ".lock"


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """Holds a run's folder, which is made if need be, for this process alone.

    The system drops the lock of a process that dies, however it dies, and no child inherits it;
    so a dead owner never stands in the way, even where its process id has been given anew.

    Raises:
        CheckpointError: another process holds the folder, or it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = os.open(workdir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CheckpointError(
            f"{workdir} cannot be written ({error.strerror}); choose another folder with --workdir."
        ) from error
    try:
        own = _identity()
        # A lock never shuts out the process that holds it: what the file says does.
        if _read(handle) == own:
            raise _taken(workdir, own)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise _taken(workdir, _read(handle)) from None
        except OSError as error:
            raise CheckpointError(
                f"{workdir} cannot be locked ({error.strerror}), so two runs could destroy each "
                "other there; choose a folder on another file system with --workdir."
            ) from error
        _write(handle, json.dumps(own))
        try:
            yield
        finally:
            _write(handle, "")
    finally:
        os.close(handle)


def _identity() -> dict[str, Any]:
    own = os.getpid()
    return {"host": socket.gethostname(), "process": own, "started": started(own)}


def started(process: int) -> str:
    """When a process began, in the system's own count; with its id it names it for good.

    Args:
        process: its id; of one that does not run the answer is `unknown`.
    """
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        fields = text.rpartition(")")[2].split()
        if fields[0] not in "ZX":  # dead, but its parent has not looked yet
            return fields[19]
    return "unknown"


def _read(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 1 << 12, 0))
    except ValueError:
        return {}  # none has written yet
    return found if isinstance(found, dict) else {}


def _write(handle: int, text: str) -> None:
    # A full disk must not stop a run that holds the lock: the text only names it.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
        os.fsync(handle)


def _taken(workdir: Path, owner: dict[str, Any]) -> CheckpointError:
    who = f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
    since = owner.get("started", "?")
    return CheckpointError(
        f"{workdir} is in use by {who} (started at tick {since}): wait for it or stop it, or "
        "choose another folder with --workdir."
    )
