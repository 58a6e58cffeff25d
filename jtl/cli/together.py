"""How a command joins several processes, and how one that fails ends them all."""

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from jtl.errors import JtlError, PreemptedError


@contextmanager
def joined(
    coordinator: str | None, processes: int | None, process: int | None, timeout: float
) -> Iterator[None]:
    """Joins the other processes; an error within then ends all of them, each saying it once.

    Args:
        coordinator: `HOST:PORT` of process 0; None, as the others, where a cluster says it.
        processes: how many there are.
        process: which one this is.
        timeout: how long to wait for the others, in seconds.

    Raises:
        ConfigError: a process does not arrive, or its place is not known.
    """
    from jtl.experiment.failures import fail_for_all, lost, watch_others
    from jtl.experiment.processes import start_processes

    start_processes(coordinator, processes, process, timeout=timeout)
    said = threading.Lock()

    def say(text: str) -> None:
        if said.acquire(blocking=False):
            print(f"jtl: {text}", file=sys.stderr)

    watch_others(say)
    try:
        yield
    except PreemptedError:
        raise  # all of them are at the same step, and end together
    except JtlError as error:
        say(str(error))
        fail_for_all(str(error))
    except Exception as error:
        if (text := lost(error)) is not None:
            say(text)
            fail_for_all(text, gone=True)
        traceback.print_exc()
        fail_for_all(f"{type(error).__name__}: {error}", status=1)
