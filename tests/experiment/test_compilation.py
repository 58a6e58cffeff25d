"""Compiled programs on disk: found by the next process, also after one was killed as it wrote."""

import json
import os
import subprocess
import sys
import time

PROGRAM = """
import collections, json, warnings
import jax
from jtl.experiment.compilation import keep_compiled_programs

warnings.simplefilter("error")
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
keep_compiled_programs()
jax.jit(lambda x: x * 3 + 1)(2.0)
names = ("cache_misses", "cache_hits")
print(json.dumps([counts[f"/jax/compilation_cache/{name}"] for name in names]))
"""


def start(folder):
    """How many programs a process compiled, and how many it found."""
    environment = {key: own for key, own in os.environ.items() if not key.startswith("JAX_")}
    command = [sys.executable, "-c", PROGRAM]
    environment["JTL_CACHE"] = str(folder)
    return json.loads(
        subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    )


def test_an_entry_that_was_cut_off_is_compiled_once_more_and_then_found(tmp_path):
    compiled, found = start(tmp_path)
    assert compiled > 0
    assert start(tmp_path) == [0, compiled + found]
    for entry in (tmp_path / "compiled").glob("*-cache"):
        entry.write_bytes(entry.read_bytes()[:-5])
        minutes_ago = time.time() - 300  # one that is younger may still be being written
        os.utime(entry, (minutes_ago, minutes_ago))
    (tmp_path / "compiled" / "checked").unlink()
    assert start(tmp_path) == [compiled, found]
    assert start(tmp_path) == [0, compiled + found]
