"""The parent's side of the process that trains: jobs go out, reports and results come back."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Report = Callable[[int, float], bool]


class Process:
    """A process that outlives trials, and is begun anew where one has ended it.

    Args:
        log: where what it prints goes.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, job: Mapping[str, Any], report: Report = lambda *_: False) -> dict[str, Any]:
        """Carries out a job.

        Args:
            job: as `jtl.study.search.worker` takes it.
            report: hears of a step and the metric; whether the trial ends here.

        Returns:
            What the worker said last: `kind` is `done`, or `ended` with a status and reason.
        """
        child, killed = self._started(), _killed_for_memory()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            self._say(child, job)
            for line in child.stdout:
                message: dict[str, Any] = json.loads(line)
                if message["kind"] != "report":
                    if message.get("status") == "out of memory":
                        self.stop()  # what it still holds would be missing from the next
                    return message
                self._say(child, {"prune": report(message["step"], message["value"])})
        except BrokenPipeError:
            pass  # it has ended; why is said below
        return self._gone(child, killed)

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._child is None:
            return
        child, self._child = self._child, None
        with contextlib.suppress(BrokenPipeError):
            child.communicate()  # the end of its input is its end

    def _say(self, child: "subprocess.Popen[str]", message: Mapping[str, Any]) -> None:
        assert child.stdin is not None
        child.stdin.write(json.dumps(message) + "\n")
        child.stdin.flush()

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is None:
            with self._log.open("a") as log:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "jtl.study.search.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    # An interrupt on the terminal is for the parent, which then ends this one.
                    start_new_session=True,
                )
        return self._child

    def _gone(self, child: "subprocess.Popen[str]", killed: int) -> dict[str, Any]:
        code = child.wait()
        self._child = None
        if code == -signal.SIGKILL and _killed_for_memory() > killed:
            reason = "the system killed its process, as memory had run out"
            return {"kind": "ended", "status": "out of memory", "reason": reason}
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        reason = f"its process ended with {how}; what it said last stands in {self._log.name}"
        return {"kind": "ended", "status": "failed", "reason": reason}


def _killed_for_memory() -> int:
    """How many processes the system has killed for want of memory since it started."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    counts = (line.split() for line in text.splitlines())
    return next((int(own[1]) for own in counts if own[0] == "oom_kill"), 0)
