"""Tells a weight file's format by its content, and what a file that is none of them may be."""

from pathlib import Path

from jtl.errors import WeightsError
from jtl.tree import nearest
from jtl.weights.readers.archive import open_archive
from jtl.weights.readers.hdf5_guard import SIGNATURE
from jtl.weights.readers.keras_files import WEIGHTS_MEMBER
from jtl.weights.readers.msgpack import looks_like_msgpack
from jtl.weights.readers.onnx_graph import looks_like_onnx
from jtl.weights.readers.orbax import looks_like_orbax
from jtl.weights.readers.safetensors import looks_like_safetensors
from jtl.weights.readers.torch_legacy import HEAD as TORCH_LEGACY_HEAD

# A file whose content names no format goes to the reader of its suffix, which says what is wrong.
_SUFFIXES = {
    ".safetensors": "safetensors",
    ".h5": "keras-h5",
    ".hdf5": "keras-h5",
    ".onnx": "onnx",
    ".msgpack": "msgpack",
    ".pth": "torch",
    ".pt": "torch",
    ".keras": "keras",
    ".npz": "npz",
}
READABLE = (
    "readable are safetensors, torch .pth and .pt, Keras .h5, .weights.h5 and .keras, ONNX, .npz, "
    "Flax msgpack and an Orbax folder"
)
# What people have in hand instead of weights, by the first bytes.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to get the file itself"),
    (b"<", "a web page; download the file itself"),
    (b"\x1f\x8b", "packed with gzip; unpack it"),
    (b"BZh", "packed with bzip2; unpack it"),
    (b"\xfd7zXZ", "packed with xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed with zstandard; unpack it"),
    (b"\x80", "a Python pickle, which could run code; save a state dict with torch.save"),
    (b"\x93NUMPY", "a single numpy array; save all of them with np.savez"),
    (b"GGUF", "a GGUF file, which holds language models"),
)
_HEAD_LENGTH = 64


def detect(path: Path) -> str:
    """The format of a file or folder: one of `WeightFile.format`, or `torch-legacy`.

    Raises:
        WeightsError: there is no such file, or its format is not known.
    """
    if path.is_dir():
        return _detect_folder(path)
    if not path.is_file():
        raise WeightsError(_missing(path))
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_LENGTH)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be opened ({error.strerror}).") from error
    if not head:
        raise WeightsError(f"{path}: is empty; fetch or save it again.")
    known = _detect_content(path, head)
    if known is not None:
        return known
    stranger = next((what for start, what in _STRANGERS if head.startswith(start)), None)
    if stranger is not None:
        raise WeightsError(f"{path}: is {stranger}.")
    if path.suffix.lower() not in _SUFFIXES:
        raise WeightsError(f"{path}: is of no known format; {READABLE}.")
    return _SUFFIXES[path.suffix.lower()]


def _detect_content(path: Path, head: bytes) -> str | None:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _detect_zip(path)
    if head.startswith(SIGNATURE):
        return "keras-h5"
    if head.startswith(TORCH_LEGACY_HEAD):
        return "torch-legacy"
    if looks_like_safetensors(head, path.stat().st_size):
        return "safetensors"
    if looks_like_onnx(head):
        return "onnx"
    return "msgpack" if looks_like_msgpack(head) else None


def _detect_zip(path: Path) -> str:
    members = list(open_archive(path).members)
    if any(name.endswith("data.pkl") for name in members):
        return "torch"
    if WEIGHTS_MEMBER in members or "config.json" in members:
        return "keras"
    if members and all(name.endswith(".npy") for name in members):
        return "npz"
    shown = ", ".join(members[:6]) or "nothing"
    raise WeightsError(f"{path}: is a zip file of {shown}, and no weights; {READABLE}.")


def _detect_folder(path: Path) -> str:
    if looks_like_orbax(path):
        return "orbax"
    names = sorted(entry.name for entry in path.iterdir())
    files = [name for name in names if Path(name).suffix.lower() in _SUFFIXES]
    steps = [name for name in names if name.isdigit()]
    if steps:
        found = f"it holds the steps {', '.join(steps[:8])}: give one, as in {path / steps[-1]}"
    elif files:
        found = f"it holds {', '.join(files[:8])}: give one, as in {path / files[0]}"
    else:
        found = f"it holds {', '.join(names[:8]) or 'nothing'}"
    raise WeightsError(f"{path}: is a folder, but not an Orbax checkpoint; {found}.")


def _missing(path: Path) -> str:
    if path.exists():
        return f"{path}: is no regular file, so it is not read."
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: there is no folder {folder}; check the path."
    names = sorted(entry.name for entry in folder.iterdir())
    close = nearest(path.name, names)
    weights = [name for name in names if Path(name).suffix.lower() in _SUFFIXES]
    if close:
        return f"{path}: there is no such file; the nearest names there: {', '.join(close)}."
    there = ", ".join(weights[:8]) or "no weight file at all"
    return f"{path}: there is no such file; its folder holds {there}."
