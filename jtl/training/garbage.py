"""How often Python looks for garbage while steps are taken."""

import contextlib
import gc
from collections.abc import Iterator

# A step makes an array for each leaf of the state before those of the last step go, and Python
# counts what is made beyond what has gone: by its own 700, each step of a large state would have
# the heap looked through, of which tracing alone has left a quarter of a million objects.
_MADE = 20_000


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """A context in which many more objects are made than usual before garbage is looked for."""
    before = gc.get_threshold()
    # Somebody who looks for none at all, or less often, is left alone.
    if 0 < before[0] < _MADE:
        gc.set_threshold(_MADE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
