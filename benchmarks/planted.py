"""Real photographs as a folder, and mistakes planted in it whose places are known."""

import dataclasses
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted:
    """What was planted, by names within the folder.

    Attributes:
        corrupt: files that cannot be read, or not whole.
        exact: pairs of equal files.
        near: pairs of one image resized, recompressed or slightly cropped.
        leaked: pairs of the same, across splits.
        flipped: images that lie in the folder of another class.
    """

    corrupt: tuple[str, ...]
    exact: tuple[frozenset[str], ...]
    near: tuple[frozenset[str], ...]
    leaked: tuple[frozenset[str], ...]
    flipped: tuple[str, ...]


def write_digits(root: Path, side: int = 64, stop: int | None = None) -> None:
    """scikit-learn's 1,797 scanned digits as PNG files, four fifths of each class for training."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images[:stop], digits.target)):
        levels = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
        _save(levels.resize((side, side), Image.Resampling.BICUBIC), root, index, str(label))


def write_patches(root: Path, photographs: Sequence[Path], side: int) -> None:
    """Photographs cut into squares that do not overlap, each photograph a class.

    Args:
        root: the folder to make.
        photographs: image files.
        side: of a square, pixels.
    """
    index = 0
    for path in photographs:
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        for top in range(0, photograph.height - side + 1, side):
            for left in range(0, photograph.width - side + 1, side):
                patch = photograph.crop((left, top, left + side, top + side))
                if np.asarray(patch, np.float32).std() > 20:  # sky has nothing to know it by
                    _save(patch, root, index, path.stem)
                    index += 1


def plant(root: Path, *, seed: int, scale: float = 1.0) -> Planted:
    """Plants 20 corrupt files, 40 exact and 40 near copies, 20 leaks and 5 % flipped labels.

    Args:
        root: a folder of `train` and `val`, of class folders of PNG files.
        seed: of what is planted where.
        scale: of the numbers of files and copies.
    """
    rng = np.random.default_rng(seed)
    train, val = (_shuffled(root / split, rng) for split in ("train", "val"))
    flipped = _flip(root, train[: len(train) // 20], rng)
    rest = train[len(train) // 20 :]

    def take(number: int) -> list[Path]:
        taken = rest[: round(number * scale)]
        del rest[: len(taken)]
        return taken

    exact, near, leaked = [], [], []
    for path in take(40):
        copy = path.with_name(f"copy-{path.name}")
        shutil.copyfile(path, copy)
        exact.append((path, copy))
    for number, path in enumerate(take(40)):
        near.append((path, _near_copy(path, path.with_name(f"near-{path.stem}"), number, rng)))
    for number, path in enumerate(val[: round(20 * scale)]):
        home = root / "train" / path.parent.name
        copy = home / f"leak-{path.name}"
        if number % 2:
            copy = _near_copy(path, home / f"leak-{path.stem}", number // 2, rng)
        else:
            shutil.copyfile(path, copy)
        leaked.append((path, copy))
    corrupt = [_corrupt(path, number, rng) for number, path in enumerate(take(20))]

    def name(path: Path) -> str:
        return path.relative_to(root).as_posix()

    def names(pairs: list[tuple[Path, Path]]) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(map(name, pair)) for pair in pairs)

    return Planted(
        corrupt=tuple(map(name, corrupt)),
        exact=names(exact),
        near=names(near),
        leaked=names(leaked),
        flipped=tuple(map(name, flipped)),
    )


def _save(image: Image.Image, root: Path, index: int, label: str) -> None:
    folder = root / ("val" if index % 5 == 4 else "train") / label
    folder.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").save(folder / f"{index:05d}.png")


def _shuffled(folder: Path, rng: np.random.Generator) -> list[Path]:
    paths = sorted(folder.rglob("*.png"))
    return [paths[place] for place in rng.permutation(len(paths))]


def _flip(root: Path, paths: list[Path], rng: np.random.Generator) -> list[Path]:
    classes = sorted(folder.name for folder in (root / "train").iterdir())
    moved = []
    for path in paths:
        other = rng.choice([name for name in classes if name != path.parent.name])
        moved.append(path.rename(root / "train" / other / f"flip-{path.name}"))
    return moved


def _near_copy(path: Path, to: Path, number: int, rng: np.random.Generator) -> Path:
    """In turn smaller, larger, recompressed, or cropped by up to a tenth of each side."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    kind = number % 4
    if kind == 0:
        image = image.resize((width * 3 // 4, height * 3 // 4), Image.Resampling.BICUBIC)
    elif kind == 1:
        image = image.resize((width * 3 // 2, height * 3 // 2), Image.Resampling.BILINEAR)
    elif kind == 3:
        cut = rng.uniform(0, 0.05, 4) * (width, height, width, height)
        left, top, right, bottom = np.rint(cut).astype(int)
        image = image.crop((left, top, width - right, height - bottom))
    quality = int(rng.integers(50, 90))
    image.save(to.with_suffix(".jpg"), quality=quality)
    return to.with_suffix(".jpg")


def _corrupt(path: Path, number: int, rng: np.random.Generator) -> Path:
    """In turn empty, cut short, noise, text, or a JPEG with damage in its middle."""
    data = path.read_bytes()
    kind = number % 5
    if kind == 0:
        data = b""
    elif kind == 1:
        data = data[: len(data) // 2]
    elif kind == 2:
        data = rng.bytes(len(data))
    elif kind == 3:
        data = b"<html>404 Not Found</html>"
    else:
        content = io.BytesIO()
        with Image.open(path) as image:
            image.save(content, "JPEG")
        data = content.getvalue()[: len(content.getvalue()) // 2]
        path = path.rename(path.with_suffix(".jpg"))
    path.write_bytes(data)
    return path
