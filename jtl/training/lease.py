"""Who writes to a run's address: one process at a time, by claims that are numbered."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jtl.errors import CheckpointError, TakenOverError
from jtl.training.owner import started
from jtl.training.storage import ObjectStorage

PREFIX = ".claim-"  # what names of claims begin with, before their numbers
BEAT = 10.0  # seconds between two signs of life
LEASE = 60.0  # seconds without one after which the owner is taken for dead


class Claim:
    """A claim that holds until there is one of a higher number."""

    def __init__(self, storage: ObjectStorage, number: int, record: dict[str, Any]) -> None:
        self.number = number
        self._storage, self._record = storage, record
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="jtl-claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Sees that nobody has taken over, as others may from an owner that seems dead.

        Raises:
            TakenOverError: another process writes there now.
            CheckpointError: the storage does not answer.
        """
        if (highest := max(_numbers(self._storage), default=self.number)) > self.number:
            owner = _read(self._storage, highest)
            raise TakenOverError(
                f"{self._storage.address} was taken over by {_who(owner)}, as this process gave no "
                f"sign of life for {LEASE:g} s: what it has not saved is left to that one."
            )

    def release(self) -> None:
        """Lets the next process have the address at once."""
        self._ended.set()
        self._thread.join()
        with suppress(CheckpointError):  # it is then taken for dead, in time
            self._say(released=True)

    def _live(self) -> None:
        beats = 0
        while not self._ended.wait(BEAT):
            beats += 1
            with suppress(CheckpointError):  # the next one may arrive
                self._say(beats=beats)

    def _say(self, **more: object) -> None:
        self.check()
        self._storage.write(_name(self.number), _rendered({**self._record, **more}))


@contextmanager
def claimed(storage: ObjectStorage, tell: Callable[[str], None] | None = None) -> Iterator[Claim]:
    """Holds an address for this process alone.

    Storage has no locks that end with their owner. Each owner makes an object whose number is one
    above the last one's, which succeeds for one process only, and the highest number holds. An
    owner that gives no sign of life is followed after `LEASE` seconds by the clock of who waits;
    one that ended, or is known to be dead, at once.

    Args:
        storage: at the address.
        tell: hears why it takes time.

    Raises:
        CheckpointError: another process holds it, or it cannot be written.
    """
    number = 1 + max(numbers := _numbers(storage), default=0)
    if numbers:
        _wait_for_end(storage, number - 1, tell)
    record = {**_identity(), "token": secrets.token_hex(8)}
    taken = not storage.create(_name(number), _rendered(record))
    if taken or max(_numbers(storage), default=number) > number:
        raise _in_use(storage, _read(storage, max(_numbers(storage), default=number)))
    storage.remove(_name(own) for own in _numbers(storage) if own < number)
    claim = Claim(storage, number, record)
    try:
        yield claim
    finally:
        claim.release()


def is_claim(name: str) -> bool:
    """Whether an object is a claim."""
    return name.startswith(PREFIX)


def _wait_for_end(storage: ObjectStorage, number: int, tell: Callable[[str], None] | None) -> None:
    """Returns once the owner has ended or seems dead.

    Raises:
        CheckpointError: it is alive.
    """
    first = _read(storage, number)
    if first.get("released") or _dead(first):
        return
    if _here(first):
        raise _in_use(storage, first)
    if tell is not None:
        tell(
            f"{storage.address} was last held by {_who(first)}: seeing for up to {LEASE:g} s "
            "whether it is alive"
        )
    deadline = time.monotonic() + LEASE
    while time.monotonic() < deadline:
        time.sleep(min(BEAT / 4, LEASE / 4))
        found = _read(storage, number)
        if found.get("released"):
            return
        if found != first:
            raise _in_use(storage, found)


def _numbers(storage: ObjectStorage) -> list[int]:
    ends = (name.removeprefix(PREFIX) for name in storage.top(PREFIX))
    return [int(end) for end in ends if end.isdecimal()]


def _name(number: int) -> str:
    return f"{PREFIX}{number}"


def _read(storage: ObjectStorage, number: int) -> dict[str, Any]:
    try:
        found = json.loads(storage.read(_name(number)) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rendered(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode()


def _identity() -> dict[str, Any]:
    """Names this process among all, also where hosts or process ids have the same names."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": started(os.getpid()),
        "machine": _machine(),
    }


def _machine() -> str:
    """One boot of one machine, and the space in which process ids have their meaning."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _here(owner: dict[str, Any]) -> bool:
    return bool(_machine()) and owner.get("machine") == _machine()


def _dead(owner: dict[str, Any]) -> bool:
    """Whether an owner ran here, and does no longer."""
    process = owner.get("process")
    return _here(owner) and isinstance(process, int) and started(process) != owner.get("started")


def _who(owner: dict[str, Any]) -> str:
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}"


def _in_use(storage: ObjectStorage, owner: dict[str, Any]) -> CheckpointError:
    return CheckpointError(
        f"{storage.address} is in use by {_who(owner)}: wait for it or stop it, or choose another "
        "address with --workdir."
    )
