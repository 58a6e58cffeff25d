"""A thread that reads ahead, and a watch on it."""

import multiprocessing
import queue
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

from jtl.errors import DataError

Item = TypeVar("Item")
_LOOK = 0.2  # seconds between two looks whether what is read is still wanted
_PATIENCE = 5.0  # seconds for what is being read when no more is wanted


def read_ahead(
    items: Generator[Item, None, None], timeout: float | None, what: str, depth: int = 1
) -> Generator[Item, None, None]:
    """The same items, each made while those before it are in use.

    Args:
        items: what is read; its errors are raised where the item would have been given.
        timeout: seconds without an item after which it is given up; None waits for ever.
        what: is being waited for, in the message.
        depth: how many items wait at most.

    Raises:
        DataError: nothing came in time; processes that had stopped are ended.
    """
    # Two simple queues, one of which holds a token for each place that is free in the other: a
    # `queue.Queue` is of Python and takes ten times as long.
    found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    free: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(depth):
        free.put(None)
    unwanted = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not unwanted.is_set():
            try:
                free.get(timeout=_LOOK)
            except queue.Empty:
                continue
            found.put((kind, value))
            return

    def read() -> None:
        try:
            for item in items:
                put("item", item)
                if unwanted.is_set():
                    break
            put("end", None)
        except BaseException as error:  # raised again where the item is waited for
            put("error", error)
        finally:
            items.close()

    thread = threading.Thread(target=read, daemon=True, name="jtl-ahead")
    thread.start()
    try:
        while True:
            try:
                kind, value = found.get(timeout=timeout)
            except queue.Empty:
                raise DataError(
                    f"{what} gave nothing for {timeout:g} s{_end_children()}; if the storage is "
                    "that slow, raise data.read.timeout."
                ) from None
            free.put(None)
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        unwanted.set()
        thread.join(_PATIENCE)
        if thread.is_alive():
            _end_children()


def _end_children() -> str:
    """Ends this process's readers, which may be stopped, and says what they were doing."""
    said = []
    for child in multiprocessing.active_children():
        if child.name.startswith("grain-"):
            said.append(f"process {child.pid} is {_state(child.pid)}")
            child.kill()
    return f" ({', '.join(said)})" if said else ""


def _state(pid: int | None) -> str:
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "running"
    return {"T": "stopped", "D": "waiting for a disk", "Z": "dead"}.get(letter, "running")
