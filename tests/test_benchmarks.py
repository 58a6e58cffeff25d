"""Every benchmark in its smallest size: it runs, and its JSON says where and what it measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
SCRIPTS = sorted(
    path.stem
    for path in (PROJECT / "benchmarks").glob("*.py")
    if path.stem not in ("__init__", "__main__", "planted", "record", "savers")
)

# What starts many processes or trains many runs even in its smallest size.
LONG = ("scorecard", "digits_fewshot", "tune_digits", "cache_gain")


def cases():
    long, slow = pytest.mark.soak, pytest.mark.slow
    return [pytest.param(name, marks=long if name in LONG else slow) for name in SCRIPTS]


@pytest.mark.parametrize("script", cases())
def test_a_benchmark_writes_what_it_measured_and_where(script, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--smoke", "--results", str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "JTL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["name"] == path.stem == script
    assert found["rows"]
    here = found["environment"]
    assert here["device"] == "cpu"
    assert here["versions"]["jax"]
    assert {"date", "commit", "python", "driver", "cores"} <= here.keys()
    assert path.name in finished.stdout


def test_the_runner_knows_every_script_and_leaves_out_what_does_not_fit(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--results", str(tmp_path)]
    finished = subprocess.run(
        [*command, "--minutes", "0"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    named = [line.split()[1].rstrip(":") for line in finished.stdout.splitlines()]
    assert sorted(named) == SCRIPTS
    assert not list(tmp_path.iterdir())
