"""What every result says of where it was measured, and the file it is written to."""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    *("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("torch", "keras", "pillow", "simplejpeg", "opencv-python-headless", "tensorflow-cpu"),
)


def environment() -> dict[str, Any]:
    """Device, versions, commit and date of a measurement."""
    import jax

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "driver": jax.devices()[0].client.platform_version,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every script takes: a smallest size, and where the JSON goes."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--smoke", action="store_true", help="the smallest size, for tests")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    return arguments


def write(
    folder: Path,
    name: str,
    rows: Sequence[dict[str, Any]],
    *,
    device: str | None = None,
    **extra: Any,
) -> Path:
    """Writes where it was measured, and one row a line of the table.

    On a CPU that is `NAME.json`; each kind of accelerator has a file beside it, such as
    `NAME-nvidia-h100-80gb-hbm3.json`; so has a `device` that the rows are about without it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = environment()
    path = folder / f"{name}{suffix(device or here['device'])}.json"
    record = {"name": name, "environment": here, **extra, "rows": list(rows)}
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def suffix(device: str) -> str:
    """What a kind of device adds to a file's name; nothing for a CPU."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return "" if slug == "cpu" else f"-{slug}"


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Median, mean, standard deviation, extremes and the samples themselves."""
    return {
        "median": statistics.median(samples),
        "mean": statistics.fmean(samples),
        "std": statistics.stdev(samples) if len(samples) > 1 else 0.0,
        "min": min(samples),
        "max": max(samples),
        "samples": list(samples),
    }


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
