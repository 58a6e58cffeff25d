"""How a transfer shows itself: a bar on a terminal, plain lines in a file, or nothing."""

import sys
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINES = 10  # plain lines for one file at most, besides notes


class Transferring(Protocol):
    """What follows one transfer."""

    def update(self, received: int, total: int | None) -> None:
        """Bytes that have arrived, and of how many; None where the server does not say."""

    def note(self, text: str) -> None:
        """One sentence about what happens, such as a retry."""

    def close(self) -> None:
        """The transfer has ended, well or not."""


ProgressFactory = Callable[[str], Transferring]


class Silent:
    """Shows nothing."""

    def __init__(self, name: str) -> None:
        """Takes a name like the others."""

    def update(self, received: int, total: int | None) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def close(self) -> None:
        """Nothing to end."""


class Lines:
    """At most ten plain lines a file and no control characters: for logs."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._next = 0.0

    def update(self, received: int, total: int | None) -> None:
        """A line at each further tenth; without a total at each doubling."""
        if received < self._next and received != total:
            return
        if total:
            share = f" of {megabytes(total)} ({100 * received // total} %)"
            self._next = received + total / _LINES
        else:
            share = ""
            self._next = max(2 * received, 1 << 20)
        if received == total:
            self._next = float("inf")
        self.note(f"{megabytes(received)}{share}")

    def note(self, text: str) -> None:
        """The sentence as a line of its own."""
        print(f"{self._name}: {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to end."""


class Bar:
    """A bar with bytes, speed and time left, which vanishes at the end."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None)
        self._bar.start()

    def update(self, received: int, total: int | None) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=received, total=total)

    def note(self, text: str) -> None:
        """The sentence above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()


def on_stderr(name: str) -> Transferring:
    """A bar where standard error is a terminal, plain lines where it is a file or a pipe."""
    return Bar(name, sys.stderr) if sys.stderr.isatty() else Lines(name, sys.stderr)


def megabytes(count: int) -> str:
    """Bytes for people, decimal: `102.5 MB`."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1_000 else f"{count} bytes"
