"""How the failure of one of several processes ends them all, with its error, and at once."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax

_KEY = "jtl/failure"  # in the store that the coordinator keeps for all processes
_EVERY = 1.0  # seconds between two looks at it
_LEFT = "jtl/left/"  # where each process but the first says that it has heard, and leaves
_PATIENCE = 60.0  # seconds that the first waits for the others to have heard
_IMPATIENCE = 5.0  # likewise, where one of them is gone and will never say so
# What collectives and the coordinator's store say of a process that is gone.
_SIGNS = ("Connection reset", "Connection closed", "Broken pipe", "UNAVAILABLE", "heartbeat")


def watch_others(tell: Callable[[str], None], status: int = 2) -> None:
    """Ends this process once another has called `fail_for_all`, wherever it waits by then.

    Without this, the others would wait for the one that failed until JAX ends them, which takes
    minutes and names no cause.

    Args:
        tell: is given the other's error, from a thread of its own.
        status: what this process exits with.
    """
    if jax.process_count() == 1:
        return

    def watch() -> None:
        while (text := _failure()) is None:
            time.sleep(_EVERY)
        tell(text)
        _leave(status)

    threading.Thread(target=watch, name="jtl-failures", daemon=True).start()


def fail_for_all(text: str, status: int = 2, *, gone: bool = False) -> NoReturn:
    """Ends this process, and tells the others why, so that they end as well.

    An error that all processes find needs none of this: they end together.

    Args:
        text: the error.
        status: what this process exits with.
        gone: whether one of the others has ended already, and will not hear.
    """
    if jax.process_count() == 1:
        sys.exit(status)
    # Another may have failed first, or the coordinator be gone.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _store().key_value_set(_KEY, f"process {jax.process_index()}: {text}")
    _leave(status, _IMPATIENCE if gone else _PATIENCE)


def lost(error: BaseException) -> str | None:
    """What to say of an error that means that another process has gone; None of any other.

    Args:
        error: that a computation over several processes ended with.
    """
    text = str(error)
    if not isinstance(error, jax.errors.JaxRuntimeError | ValueError) or jax.process_count() == 1:
        return None
    if not any(sign in text for sign in _SIGNS):
        return None
    if (told := _failure()) is not None:  # why it went; the watch had no time yet to hear it
        return told
    return (
        f"another of the {jax.process_count()} processes has ended without a word "
        f"({text.splitlines()[0][:200]}): start all of them again with --resume; what was saved "
        "stands."
    )


def _failure() -> str | None:
    try:
        return str(_store().key_value_try_get(_KEY))
    except (jax.errors.JaxRuntimeError, AttributeError):
        return None  # nothing there; or JAX has shut down, and so will this process


def _store() -> Any:
    # JAX keeps it for its own start, and has no public name for it.
    from jax._src import distributed

    return distributed.global_state.client


def _leave(status: int, patience: float = _PATIENCE) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # The store may be gone, with the first process or because JAX has shut down.
    with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):
        if jax.process_index() == 0:
            _await_leave_of_others(patience)
        else:
            _store().key_value_set(f"{_LEFT}{jax.process_index()}", "")
    # A plain exit would wait for the others to leave too, who may wait for this one.
    os._exit(status)


def _await_leave_of_others(patience: float) -> None:
    # The store ends with this process, and JAX aborts those that have not left by then.
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if len(_store().key_value_dir_get(_LEFT)) >= jax.process_count() - 1:
            time.sleep(_EVERY)
            return
        time.sleep(_EVERY / 10)
