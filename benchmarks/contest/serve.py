"""The process of one side: it gets ready, says what it cost, and runs steps when it is its turn."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.contest.cell import Cell


class Side(Protocol):
    """One way to do the work of a cell."""

    def run(self, steps: int) -> None:
        """Runs so many steps, and waits for the last of them."""
        ...

    def facts(self) -> dict[str, Any]:
        """What is known of the program when it has run: operations, bytes, memory."""
        ...


def serve(make: Callable[[Cell, str], Side]) -> None:
    """Answers on standard output, a line of JSON each, as `contestants.py` asks.

    Args:
        make: from a cell and a variant's name to a side.
    """
    # Libraries print where they like; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    cell, variant = Cell.from_json(sys.argv[1]), sys.argv[2]
    try:
        start = time.perf_counter()
        side = make(cell, variant)
        made = time.perf_counter()
        side.run(1)
        ready = time.perf_counter()
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        answer(failed=f"{type(error).__name__}: {first}"[:300])
        raise
    answer(make_seconds=made - start, first_step_seconds=ready - made)
    for line in sys.stdin:
        if steps := int(line):
            start = time.perf_counter()
            side.run(steps)
            answer(seconds=(time.perf_counter() - start) / steps)
        else:
            answer(**side.facts())


def peak_resident_bytes() -> int | None:
    """The most memory that this process ever had, where the system says."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
