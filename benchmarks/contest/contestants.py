"""Starts the sides of a contest, lets them take turns, and gathers what they say."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from benchmarks.contest.cell import Cell

PROJECT = Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A side by name, the module that plays it, and what must be installed for it.

    Attributes:
        name: as the table has it.
        module: of `benchmarks.contest`.
        variant: what the module is told.
        needs: packages to import.
    """

    name: str
    module: str
    variant: str = ""
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Those packages that are not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


class Contestant:
    """A side's process, from its start to its end.

    Args:
        entry: which side.
        cell: the work.
        compiled: a folder that compilers keep what they made in; without one they keep nothing.
    """

    def __init__(self, entry: Entry, cell: Cell, compiled: Path | None = None) -> None:
        self.entry, self.seconds = entry, list[float]()
        self.facts: dict[str, Any] = {}
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        command = [sys.executable, "-m", f"benchmarks.contest.{entry.module}"]
        # One device holds all sides at once: none may take all of its memory.
        self._process = subprocess.Popen(
            [*command, cell.to_json(), entry.variant],
            cwd=PROJECT,
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **_kept_in(compiled)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    @property
    def failed(self) -> str | None:
        """Why the side dropped out, or None."""
        return self.facts.get("failed")

    def get_ready(self) -> None:
        """Waits until the side has run its first step, or could not."""
        self.facts.update(self._answer())

    def turn(self, steps: int, *, counts: bool = True) -> float:
        """Lets the side run; seconds a step, which count unless it warms up."""
        answer = self._ask(steps)
        if "failed" in answer:
            self.facts.update(answer)
            return float("inf")
        if counts:
            self.seconds.append(answer["seconds"])
        return float(answer["seconds"])

    def tell(self) -> None:
        """Gathers what the side knows of its program."""
        self.facts.update(self._ask(0))

    def _ask(self, steps: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        # A side that ended is asked in vain; what it said before that is read below.
        with contextlib.suppress(BrokenPipeError):
            print(steps, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.wait()
        self._log.seek(0)
        last = self._log.read().strip().splitlines()[-1:] or ["it said nothing"]
        return {"failed": f"ended with {self._process.returncode}: {last[0]}"[:300]}


def _kept_in(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def prepare_alone(entry: Entry, cell: Cell, compiled: Path) -> dict[str, Any]:
    """Lets a side compile, and choose its kernels, on a device that it has for itself.

    What it tried meanwhile takes several times a step's memory, which few give back: it ends here.
    A contestant with the same folder is soon ready, and holds what its step needs.

    Returns:
        What it said of the time until it was ready.
    """
    with Contestant(entry, cell, compiled) as first:
        first.get_ready()
        return first.facts


def take_turns(
    contestants: Sequence[Contestant], *, rounds: int, seconds: float, most_steps: int
) -> None:
    """Lets the sides that have not failed run by turns.

    Args:
        contestants: ready.
        rounds: turns of each that count.
        seconds: how long a turn is to be, about.
        most_steps: of a turn.
    """
    steps = {}
    for own in _able(contestants):
        one = own.turn(1, counts=False)
        steps[own] = max(1, min(most_steps, round(seconds / max(one, 1e-9))))
    for own in _able(contestants):
        own.turn(steps[own], counts=False)
    for turn in range(rounds):
        # Whoever goes first has the cooler machine: each is first as often.
        able = _able(contestants)
        for own in able if turn % 2 else able[::-1]:
            own.turn(steps[own])
    for own in _able(contestants):
        own.tell()


def _able(contestants: Sequence[Contestant]) -> list[Contestant]:
    return [own for own in contestants if not own.failed]
