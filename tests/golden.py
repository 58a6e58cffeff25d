"""The rule that turns (seed, tensor name, shape) into a tensor, so that fixtures carry none.

A fixture (`tests/data/parity/*.npz`) holds the tensor names and shapes of a real peer's model, the
seed, the recipe of the input images and the outputs that the peer computed in float64 on exactly
these tensors. Needs numpy alone.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "data" / "parity"
SOURCES = ("torchvision", "keras")


def tensor(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name: the same on every machine, for every numpy since 1.17."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    rng = np.random.Generator(np.random.Philox(key=key))
    leaf = name.replace("/", ".").split(".")[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf in ("running_var", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf in ("running_mean", "moving_mean", "bias", "beta"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return rng.uniform(0.4, 0.9, shape).astype(np.float32)
    fan_in = np.prod(shape[:-1]) if leaf == "kernel" else np.prod(shape[1:])
    return (np.sqrt(2.0 / fan_in) * rng.standard_normal(shape)).astype(np.float32)


def images(seed: int, batch: int, size: int) -> np.ndarray:
    """uint8 RGB `[batch, size, size, 3]`, smooth enough to look like photographs to a network."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    coarse = rng.uniform(0, 255, (batch, 8, 8, 3))
    grown = np.kron(coarse, np.ones((1, -(-size // 8), -(-size // 8), 1)))[:, :size, :size]
    return np.clip(grown + rng.normal(0, 12, grown.shape), 0, 255).astype(np.uint8)


def load(name: str) -> dict[str, Any]:
    """A fixture: meta (dict), images (uint8 NHWC) and outputs (name to float64 array)."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        outputs = {key[4:]: file[key] for key in file.files if key.startswith("out:")}
    pictures = images(meta["image_seed"], meta["batch"], meta["size"])
    return {"meta": meta, "images": pictures, "outputs": outputs}


def names() -> list[str]:
    """Every fixture of a network in evaluation mode, as `source-architecture`."""
    return sorted(path.stem for kind in SOURCES for path in FOLDER.glob(f"{kind}-*.npz"))


def shapes(meta: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the fixture's model under the peer's own name."""
    return {name: tuple(shape) for name, shape in meta["tensors"]}


def state_dict(meta: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor of the fixture's model under the peer's own name, in the peer's own layout."""
    return {name: tensor(meta["seed"], name, shape) for name, shape in shapes(meta).items()}


def normalised(meta: dict[str, Any], pictures: np.ndarray) -> np.ndarray:
    """float64 images as the peer's own preprocessing makes them."""
    if "mean" in meta:
        return (pictures / 255 - np.array(meta["mean"])) / np.array(meta["std"])
    if meta["preprocess"] == "caffe":
        # Blue, green, red, minus the mean of ImageNet (keras/src/applications/imagenet_utils.py).
        return pictures[..., ::-1].astype(np.float64) - np.array([103.939, 116.779, 123.68])
    return pictures / 127.5 - 1
