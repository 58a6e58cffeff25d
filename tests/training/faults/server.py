"""A process that has imported everything and forks the processes that tests kill.

Importing JAX and Orbax takes seconds, forking a process that has done so milliseconds. Nothing
here starts JAX's devices, which no fork would survive.
"""

import contextlib
import importlib
import json
import os
import select
import sys
import traceback


def _carry_out(request):
    """In the child: calls a function, whose result is the exit status."""
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["env"])
    if request["core"] is not None:
        os.sched_setaffinity(0, {request["core"]})
    module, _, name = request["call"].partition(":")
    try:
        status = getattr(importlib.import_module(module), name)(**request["arguments"])
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _ended():
    with contextlib.suppress(ChildProcessError):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return {"pid": pid, "status": os.waitstatus_to_exitcode(status)}
    return None


def serve():
    """Forks a process for each line, and says how each ended; ends with its parent."""
    import numpy  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import tensorboardX  # noqa: F401

    import jtl.experiment.train  # noqa: F401

    def say(message):
        os.write(1, (json.dumps(message) + "\n").encode())

    say({"ready": os.getpid()})
    waiting = b""
    while True:
        while (message := _ended()) is not None:
            say(message)
        if not select.select([0], [], [], 0.003)[0]:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                _carry_out(json.loads(line))
            say({"forked": pid})


if __name__ == "__main__":
    serve()
