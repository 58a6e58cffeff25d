"""How long does a ranking take? 1,000 photographs' worth of pixels, three networks like ResNet-18.

    python -m benchmarks.rank

Images of 256×256 pixels, ten classes of textures that differ in frequency and colour, are written
as JPEG files; the networks are ResNet-18s with random weights of three seeds, as files. The command
is what a user types, `jtl rank FOLDER --weights FOLDER`, in a process that has nothing compiled.
Limit: 5 minutes on two cores. Random weights say nothing of quality: this asks for time alone.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import record

LIMIT = 300.0  # seconds
CLASSES, SIDE = 10, 256


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    model, images = ("resnet_mini", 60) if arguments.smoke else ("resnet18", 1000)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"), images)
        write_weights(Path(folder, "weights"), model, 1 if arguments.smoke else 3)
        seconds, ranked = _rank(Path(folder), images)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {
        "name": f"{len(ranked)} × {model}, {images} images",
        "seconds": seconds,
        "limit": LIMIT,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_memory_mib": used.ru_maxrss / 1024,
        "networks": [
            {name: own[name] for name in ("name", "seconds", "images_per_second", "memory")}
            for own in ranked
        ],
    }
    print(f"{row['name']}: {seconds:.0f} s of {LIMIT:.0f}, {row['peak_memory_mib']:.0f} MiB")
    print(record.write(arguments.results, "rank", [row], model=model, images=images))


def write_images(folder: Path, count: int) -> None:
    """Textures as JPEG files, a folder a class."""
    rng = np.random.default_rng(0)
    across = np.arange(SIDE)[:, None] * np.ones(SIDE)
    for number in range(count):
        label = number % CLASSES
        path = folder / f"class{label}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        wave = np.sin((np.cos(angle) * across + np.sin(angle) * across.T) / (2 + label) + phase)
        tint = np.array([1.0, 0.4 + label / 20, 1.0 - label / 20])
        pixels = 128 + 60 * wave[..., None] * tint + rng.normal(0, 25, (SIDE, SIDE, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)


def write_weights(folder: Path, model: str, count: int) -> None:
    """Files of random weights with a head of 1,000 classes."""
    import jtl

    folder.mkdir()
    for seed in range(count):
        made = jtl.load_model(model, None, 1000, rng=seed)
        jtl.save_weights(folder / f"seed{seed}.safetensors", made.model, made.variables)


def _rank(folder: Path, images: int) -> tuple[float, list[dict[str, Any]]]:
    words = ["rank", "images", "--weights", "weights", "--images", str(images)]
    command = "from jtl.cli import main; main()"
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", command, *words, "--set", "data.split.test=0"],
        cwd=folder,
        env={
            **os.environ,
            "JTL_CACHE": str(folder / "cache"),
            "PYTHONPATH": str(Path(__file__).parent.parent),
        },
        check=True,
    )
    seconds = time.perf_counter() - start
    return seconds, json.loads((folder / "rank" / "rank.json").read_text())["ranked"]


if __name__ == "__main__":
    main()
