"""How often Python looks for garbage while jtl works."""

import contextlib
import gc
import threading
from collections.abc import Iterator

# A step makes an array for each leaf of the state before those of the last step go, and Python
# counts what is made beyond what has gone: by its own 700 (to Python 3.13), each step of a large
# state would have the heap looked through, of which tracing alone has left a quarter of a million
# objects.
_MADE = 20_000
# The thresholds that those inside have found, a stack: whichever thread ends last puts back what
# the first one found. The threshold is the process's, and so is this.
_lock = threading.Lock()
_before: list[tuple[int, int, int]] = []


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """A context in which many more objects are made than usual before garbage is looked for."""
    with _lock:
        before = gc.get_threshold()
        _before.append(before)
        # Somebody who looks for none at all, or less often, is left alone.
        if 0 < before[0] < _MADE:
            gc.set_threshold(_MADE, *before[1:])
    try:
        yield
    finally:
        with _lock:
            gc.set_threshold(*_before.pop())
