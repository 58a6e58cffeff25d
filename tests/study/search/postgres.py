"""A PostgreSQL cluster of a test's own, on loopback, run by a user that is not root."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _find() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def _as_user(*words: object) -> list[str]:
    plain = [str(word) for word in words]
    if os.getuid() != 0:
        return plain
    return ["runuser", "-u", "postgres", "--", *plain]  # which its server insists on


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The URL of an empty database; skips the test where no server is installed."""
    binaries = _find()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed here")
    if os.getuid() == 0 and (
        shutil.which("runuser") is None
        or subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode
    ):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not pytest's folder, into which another user may not look.
    folder = Path(tempfile.mkdtemp(prefix="jtl-postgres-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    data, options = folder / "data", f"-p {port} -h 127.0.0.1 -k {folder}"
    quiet = {"check": True, "capture_output": True, "cwd": folder}
    subprocess.run(_as_user(binaries / "initdb", "-D", data, "-A", "trust", "-N"), **quiet)
    control = (binaries / "pg_ctl", "-D", data, "-w")
    log = folder / "log.txt"
    started = _as_user(*control, "-l", log, "-o", options, "start")
    subprocess.run(started, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        user = "postgres" if os.getuid() == 0 else os.environ.get("USER", "postgres")
        yield f"postgresql://{user}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(_as_user(*control, "-m", "immediate", "stop"), **quiet)
        shutil.rmtree(folder, ignore_errors=True)
