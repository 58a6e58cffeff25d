"""The test's side of the process that forks: starts processes, kills them, waits for them."""

import ctypes
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 300  # seconds that a process may take on a busy machine


def compile_preload(folder):
    """Compiles the library that strikes at file operations; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    source, library = Path(__file__).parent / "preload.c", folder / "preload.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return library if done.returncode == 0 else None


class Forked:
    """A process that was forked for a test."""

    def __init__(self, server, pid):
        self._server, self.pid = server, pid

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def wait(self, patience=PATIENCE):
        """How it ended: its exit status, or minus the signal."""
        return self._server.status_of(self.pid, patience)

    @property
    def ended(self):
        return self._server.status_of(self.pid, 0) is not None


class Server:
    """Forks processes that have imported everything already.

    Args:
        folder: where what processes say is kept.
        preload: a library that they are started with, or None.
    """

    def __init__(self, folder, preload):
        self.said, self.preloaded = folder / "said.txt", preload is not None
        self._statuses, self._changed = {}, threading.Condition()
        self._forked = queue.Queue()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        if preload is not None:
            env["LD_PRELOAD"] = str(preload)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.training.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            env=env,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self._forked.get(timeout=PATIENCE)  # it is ready

    def fork(self, call, *, env=None, core=None, **arguments):
        """Calls `tests.training.faults.MODULE:FUNCTION` in a process of its own."""
        request = {
            "call": f"tests.training.faults.{call}",
            "arguments": arguments,
            "said": str(self.said),
            "env": env or {},
            "core": core,
        }
        self._process.stdin.write((json.dumps(request) + "\n").encode())
        self._process.stdin.flush()
        return Forked(self, self._forked.get(timeout=PATIENCE))

    def call(self, call, **arguments):
        """The exit status of a process that calls a function."""
        return self.fork(call, **arguments).wait()

    def status_of(self, pid, patience):
        with self._changed:
            self._changed.wait_for(lambda: pid in self._statuses, patience)
            found = self._statuses.get(pid)
        if found is None and patience:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"a process did not end in {patience} s: {self.tail()}")
        return found

    def tail(self):
        """What processes said last."""
        return self.said.read_text()[-3000:] if self.said.exists() else ""

    def close(self):
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def _listen(self):
        for line in self._process.stdout:
            message = json.loads(line)
            if "pid" in message:
                with self._changed:
                    self._statuses[message["pid"]] = message["status"]
                    self._changed.notify_all()
            else:
                with self._changed:  # process ids come back
                    self._statuses.pop(message.get("forked"), None)
                self._forked.put(message.get("forked"))


STRIKES = {"count": 0, "kill": 1, "tear": 2, "fail once": 3, "fail on": 4}


def arm(folder, nth, how, error=0):
    """In a process with the preloaded library: strike at the nth file operation below a folder."""
    ctypes.CDLL(None).fault_arm(
        str(folder).encode(), ctypes.c_long(nth), STRIKES[how], ctypes.c_int(error)
    )


def disarm():
    """Ends that; how many operations there were."""
    library = ctypes.CDLL(None)
    library.fault_disarm()
    library.fault_count.restype = ctypes.c_long
    return library.fault_count()


def move_clock(seconds):
    """In such a process: the time of day is another by so much from here on."""
    ctypes.CDLL(None).fault_clock(ctypes.c_long(seconds))
