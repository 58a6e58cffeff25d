"""The roll call of several processes: who is there is known before JAX depends on it."""

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import time
from collections.abc import Iterable
from typing import Any

from jtl.errors import ConfigError

_PAUSE = 0.1  # seconds between two attempts to reach process 0
_MARGIN = 5.0  # seconds beyond the time-out that a process 0 may take to say its verdict
_GRACE = 3.0  # seconds in which those still on their way hear of a disagreement
_LONGEST = 4096  # bytes of a message; whatever else knocks at the port is not read further
_NAMED = 8  # missing processes that an error lists


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seat:
    """One process's place among them all.

    Attributes:
        coordinator: `HOST:PORT`, where process 0 is reached.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        ConfigError: one of them makes no sense.
    """

    coordinator: str
    processes: int
    process: int

    def __post_init__(self) -> None:
        host, port = split_address(self.coordinator)
        if not host or not 0 < port < 65536:
            raise ConfigError(
                f"coordinator={self.coordinator!r} is no HOST:PORT, such as 10.0.0.1:1234."
            )
        if not 0 <= self.process < self.processes:
            raise ConfigError(
                f"process={self.process} is none of {self.processes} processes; they count from "
                f"0 to {self.processes - 1}."
            )


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, IPv6 hosts in brackets; port 0 where there is none."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port) if port.isascii() and port.isdigit() else 0


def call_roll(seat: Seat, timeout: float) -> None:
    """Returns once every process has called this; all raise the same error if one does not.

    Process 0 listens at the coordinator's own port and lets go of it before it returns, so that
    no second port need be open. JAX would end the whole process where a peer is missing.

    Args:
        seat: this process's.
        timeout: how long to wait for the others, in seconds.

    Raises:
        ConfigError: who did not arrive in time, or who disagrees; or the port is taken.
    """
    if seat.processes == 1:
        return
    problem = _lead(seat, timeout) if seat.process == 0 else _follow(seat, timeout)
    if problem:
        raise ConfigError(problem)


def _lead(seat: Seat, timeout: float) -> str:
    with _listen(seat) as listener, contextlib.ExitStack() as open_sockets:
        attendance = _Attendance(seat, listener, open_sockets)
        deadline = time.monotonic() + timeout
        while attendance.missing and (left := deadline - time.monotonic()) > 0:
            agreed = not attendance.problem
            attendance.hear(left)
            if agreed and attendance.problem:
                deadline = min(deadline, time.monotonic() + _GRACE)
        if not attendance.problem and attendance.missing:
            attendance.problem = _absent(attendance.missing, seat, timeout)
        attendance.tell()
        return attendance.problem


def _listen(seat: Seat) -> socket.socket:
    port = split_address(seat.coordinator)[1]
    # JAX's own setting, for where the world sees another address than the machine does.
    address = split_address(os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f":{port}"))
    dual = socket.has_dualstack_ipv6() and "." not in address[0]
    family = socket.AF_INET6 if dual else socket.AF_INET
    host = "" if address[0] == "::" else address[0]
    try:
        return socket.create_server(
            (host, address[1]), family=family, dualstack_ipv6=dual, backlog=seat.processes
        )
    except OSError as error:
        raise ConfigError(
            f"process 0 cannot listen at port {address[1]} ({error.strerror or error}); choose "
            "another port for the coordinator."
        ) from error


class _Attendance:
    """Who is connected to process 0, and what it has heard so far."""

    def __init__(
        self, seat: Seat, listener: socket.socket, open_sockets: contextlib.ExitStack
    ) -> None:
        self._seat, self._listener, self._open = seat, listener, open_sockets
        self._watched = open_sockets.enter_context(selectors.DefaultSelector())
        self._watched.register(listener, selectors.EVENT_READ)
        self._heard: dict[socket.socket, bytes] = {}
        self._present: dict[int, socket.socket] = {}
        self.problem = ""

    @property
    def missing(self) -> list[int]:
        """The processes that have not arrived, or have left again."""
        return [index for index in range(1, self._seat.processes) if index not in self._present]

    def hear(self, seconds: float) -> None:
        """Takes what arrives within some seconds."""
        for key, _ in self._watched.select(seconds):
            own: Any = key.fileobj
            if own is self._listener:
                connection, _ = own.accept()
                self._open.enter_context(connection)
                connection.setblocking(False)
                self._watched.register(connection, selectors.EVENT_READ)
                self._heard[connection] = b""
            else:
                self._read(own)

    def tell(self) -> None:
        """Says the verdict to all that are connected."""
        message = _message({"problem": self.problem})
        for connection in self._heard:
            # Whoever has left again cannot be told.
            with contextlib.suppress(OSError):
                connection.setblocking(True)
                connection.settimeout(_MARGIN)
                connection.sendall(message)

    def _read(self, connection: socket.socket) -> None:
        try:
            heard = connection.recv(_LONGEST)
        except OSError:
            heard = b""
        self._heard[connection] += heard
        if not heard or len(self._heard[connection]) > _LONGEST:
            self._forget(connection)
        elif b"\n" in heard:
            self._note(connection, _read_message(self._heard[connection]))

    def _forget(self, connection: socket.socket) -> None:
        self._watched.unregister(connection)
        del self._heard[connection]
        connection.close()
        self._present = {i: other for i, other in self._present.items() if other is not connection}

    def _note(self, connection: socket.socket, hello: dict[str, Any]) -> None:
        index, processes = hello.get("process"), hello.get("processes")
        if not isinstance(index, int) or not isinstance(processes, int):
            self._forget(connection)
            return
        if processes != self._seat.processes:
            self.problem = self.problem or (
                f"process {index} was started as one of {processes}, process 0 as one of "
                f"{self._seat.processes}; give all the same number of processes."
            )
        elif index == 0 or index in self._present:
            self.problem = self.problem or (
                f"two processes were started as process {index} of {processes}; give each its own."
            )
        self._present.setdefault(index, connection)


def _follow(seat: Seat, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        # A connection may fail, or be cut by what stands between, before process 0 listens.
        with contextlib.suppress(OSError):
            verdict = _ask(seat, left, timeout + _MARGIN)
            if "problem" in verdict:
                return str(verdict["problem"])
        time.sleep(_PAUSE)
    return _absent([0], seat, timeout)


def _ask(seat: Seat, to_connect: float, to_hear: float) -> dict[str, Any]:
    with socket.create_connection(split_address(seat.coordinator), timeout=to_connect) as own:
        if own.getsockname() == own.getpeername():
            return {}  # on one machine, a port that nobody listens at may connect to itself
        own.sendall(_message({"process": seat.process, "processes": seat.processes}))
        own.settimeout(to_hear)
        heard = b""
        while b"\n" not in heard and len(heard) <= _LONGEST:
            part = own.recv(_LONGEST)
            if not part:
                return {}
            heard += part
    return _read_message(heard)


def _message(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _read_message(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _absent(missing: Iterable[int], seat: Seat, timeout: float) -> str:
    names = [str(index) for index in missing]
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    who = f"process {listed}" if len(names) == 1 else f"{len(names)} processes ({listed})"
    return (
        f"{who} of {seat.processes} did not arrive at {seat.coordinator} within {timeout:g} "
        "seconds; start all of them with the same coordinator and number of processes, and see "
        "that they reach it."
    )
