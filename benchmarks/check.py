"""Does `jtl check` find what was planted, and how fast does it look at 10,000 photographs?

`python -m benchmarks.check --photographs A.jpg B.png …` cuts photographs into more than 1,000
squares; `--speed` times 10,000 images of 500×375 pixels in a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.planted import Planted, plant, write_digits, write_patches
from benchmarks.record import parser, write
from jtl.data.options import DataOptions, load_source
from jtl.study.check.check import check
from jtl.study.check.findings import CheckResult
from jtl.weights.load import load_model

_SPEED_IMAGES, _CLASSES = 10_000, 20
_CORRUPT = ("empty_file", "truncated", "unreadable", "damaged")


def main() -> None:
    """Measures and writes `check.json`."""
    arguments = parser(__doc__)
    arguments.add_argument("--photographs", type=Path, nargs="*", default=[])
    arguments.add_argument("--side", type=int, default=56, help="of the squares, pixels")
    arguments.add_argument("--speed", action="store_true", help="time 10,000 photographs as well")
    arguments.add_argument("--timed", type=Path, help="only check this folder")
    own = arguments.parse_args()
    if own.timed is not None:
        print(json.dumps(_timed(own.timed)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder, "digits")
        write_digits(digits, stop=300 if own.smoke else None)
        rows.append(_planted("digits", digits, 0.2 if own.smoke else 1.0))
        if own.photographs:
            squares = Path(folder, "squares")
            write_patches(squares, own.photographs, own.side)
            row = _planted("squares of photographs", squares, 1.0)
            rows.append({**row, "photographs": [path.name for path in own.photographs]})
        if own.speed:
            rows.append(_speed(Path(folder, "speed")))
    print(write(own.results, "check", rows))


def found(result: CheckResult, planted: Planted) -> dict[str, Any]:
    """What of the planted was found, as shares, and how many pairs are false."""
    names = result.names

    def pairs(prefix: str) -> list[frozenset[str]]:
        kinds = {"exact": ("exact_copy", "leak", "contradiction")}.get(
            prefix, ("near_copy", "near_leak", "near_contradiction")
        )
        return [
            frozenset(names[example] for example in finding.examples)
            for finding in result.findings
            if finding.kind in kinds
        ]

    def singles(*kinds: str) -> list[str]:
        return [names[finding.examples[0]] for finding in result.findings if finding.kind in kinds]

    exact, near = pairs("exact"), pairs("near")
    known = {*planted.exact, *planted.near, *planted.leaked}
    suspects = singles("suspected_label")[: len(names) // 10]
    return {
        "corrupt": _share(planted.corrupt, singles(*_CORRUPT)),
        "exact": _share(planted.exact, exact),
        "near": _share(planted.near, near),
        "leaked": _share(planted.leaked, exact + near),
        "false_pairs": sum(pair not in known for pair in near) / max(len(near), 1),
        "flipped_in_first_tenth": _share(planted.flipped, suspects),
        "false_corrupt": len(set(singles(*_CORRUPT)) - set(planted.corrupt)),
    }


def _share(planted: Any, found: list[Any]) -> float:
    return sum(own in set(found) for own in planted) / len(planted)


def _planted(name: str, folder: Path, scale: float) -> dict[str, Any]:
    planted = plant(folder, seed=0, scale=scale)
    began = time.monotonic()
    result = _check(folder)
    seconds = round(time.monotonic() - began, 1)
    row = {"data": name, "images": len(result.names), "seconds": seconds, **found(result, planted)}
    print(row)
    return row


def _check(folder: Path) -> CheckResult:
    source = load_source(DataOptions(source=str(folder)), refuse=False)
    pretrained = load_model("resnet_mini", "glyphs", rng=0)
    return check(source, data="planted", max_pixels=10**8, threads=2, pretrained=pretrained)


def _timed(folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    images = len(_check(folder).names)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"images": images, "seconds": time.monotonic() - began, "peak_gib": peak}


def _speed(folder: Path) -> dict[str, Any]:
    """Crops of two photographs, at random and coloured anew, as JPEG files of 500×375."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for index in range(_SPEED_IMAGES):
        photograph = photographs[index % 2]
        width = int(rng.integers(120, 400))
        height = width * 3 // 4
        left = int(rng.integers(0, photograph.width - width))
        top = int(rng.integers(0, photograph.height - height))
        crop = photograph.crop((left, top, left + width, top + height)).resize((500, 375))
        levels = np.asarray(crop) * rng.uniform(0.5, 1, 3)
        path = folder / str(index % _CLASSES) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels.astype(np.uint8)).save(path, quality=90)
    command = [sys.executable, "-m", "benchmarks.check", "--timed", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = {"data": "500×375 JPEG", **json.loads(output.splitlines()[-1])}
    print(row)
    return row


if __name__ == "__main__":
    main()
