"""When a run has to stop before its end: signals, a deadline, and the cluster's own notice."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax

from jtl.training.together import on_first

STATUS = 143  # what a process that was preempted exits with, as after SIGTERM
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 15.0  # seconds that the loop has to come to the end of its step
_EVERY = 10  # steps between two looks of several processes at the first one's clock


class Preemption:
    """Knows whether to stop after a step; a context in which signals ask for that.

    The first SIGTERM or SIGINT asks the loop to save and stop, the second SIGINT stops at once.
    Where the loop does not get there in time, as in a long compilation, a thread that the system
    tells of signals ends the process and leaves the last durable step as it is: Python itself
    would hear of them only once the compilation is over. Several processes leave signals to JAX,
    whose notice reaches all of them at the same step.

    Args:
        max_seconds: after which the run saves and stops; None never does.
        grace: seconds that the loop has after a signal.
    """

    def __init__(self, max_seconds: float | None = None, grace: float = GRACE) -> None:
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._max_seconds, self._grace = max_seconds, grace
        self._reason: str | None = None
        self._left = threading.Event()
        self._before: dict[int, Any] = {}
        self._told, self._told_before = -1, -1

    def __enter__(self) -> "Preemption":
        alone = not jax.distributed.is_initialized()
        if alone and threading.current_thread() is threading.main_thread():
            ear, self._told = os.pipe()
            os.set_blocking(self._told, False)
            self._told_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
            threading.Thread(
                target=self._watch, args=(ear,), name="jtl-preemption", daemon=True
            ).start()
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._told >= 0:
            signal.set_wakeup_fd(self._told_before)
            os.close(self._told)

    def __call__(self, step: int) -> str | None:
        """Why to stop after this many steps, the same on every process; None goes on."""
        if jax.process_count() == 1:
            late = self._deadline is not None and time.monotonic() >= self._deadline
            return self._reason or (self._late if late else None)
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        if reached_preemption_sync_point(step):
            return "the cluster's notice"
        if self._deadline is None or step % _EVERY:
            return None
        deadline = self._deadline
        return self._late if on_first(lambda: time.monotonic() >= deadline) else None

    @property
    def _late(self) -> str:
        return f"train.max_seconds={self._max_seconds:g}"

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._reason is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._reason = signal.Signals(number).name

    def _watch(self, ear: int) -> None:
        number = 0
        while number not in _SIGNALS:
            byte = os.read(ear, 1)
            if not byte:
                os.close(ear)
                return
            number = byte[0]
        if not self._left.wait(self._grace):
            text = f"jtl: {signal.Signals(number).name}, and the step in flight did not end within "
            text += f"{self._grace:g} s; the last saved step stands, go on with --resume."
            print(text, file=sys.stderr, flush=True)
            os._exit(STATUS)
        os.close(ear)


Stop = Callable[[int], str | None]


def never(step: int) -> str | None:
    """Goes on after every step."""
    del step
    return None
