"""Near copies: candidates by perceptual hash and likeness, proved by laying one on the other."""

import dataclasses

import numpy as np

_HASH_BITS = 12  # of 64 that may differ between candidates
_NEIGHBOURS = 4  # most alike of each image, that are candidates as well
_ALIKE = 0.6  # correlation that such a neighbour must have
_ROWS = 1024  # compared with all others at once
_PAIRS = 512  # laid on each other at once
# Correlation of levels and of edges, once aligned. Noise and strong compression spoil edges first.
_SAME, _SAME_DETAIL = 0.992, 0.6
_SURE, _SURE_DETAIL = 0.998, 0.985  # at which no other image need be looked at
_FAR_BELOW = 0.1  # of how far apart the next best are
_WORTH_IT = 0.96  # correlation of halved images, below which no closer look is taken
_STARTS = (1.0, 0.92, 1.08)  # magnifications that the search begins with
_STEPS, _FINE_STEPS = 5, 3
_OVERLAP = 0.6  # of the image, that must lie on the other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images that show the same.

    Attributes:
        first: an example.
        second: a later example.
        likeness: their correlation once they lie on each other, in [0, 1].
    """

    first: int
    second: int
    likeness: float


def near_pairs(greys: np.ndarray, hashes: np.ndarray) -> list[Pair]:
    """Pairs that are one image resized, recompressed, slightly cropped or brightened.

    Args:
        greys: uint8 `[n, side, side]`; no two of them of exact copies.
        hashes: bool `[n, bits]`.
    """
    candidates = _candidates(greys, hashes)
    if not len(candidates):
        return []
    parts = [
        _compared(greys[own[:, 0]], greys[own[:, 1]])
        for own in np.split(candidates, range(_PAIRS, len(candidates), _PAIRS))
    ]
    levels, detail = (np.concatenate(part) for part in zip(*parts))
    same = _distinct(candidates, levels, detail, len(greys))
    return [
        Pair(first=int(first), second=int(second), likeness=float(value))
        for (first, second), value in zip(candidates[same], levels[same])
    ]


def _distinct(pairs: np.ndarray, levels: np.ndarray, detail: np.ndarray, count: int) -> np.ndarray:
    """Which pairs are copies, bool `[pairs]`.

    Where one image is like many, as bricks and digits are, likeness alone proves nothing: a pair
    must be far more alike than either is to the next best, unless hardly anything differs.
    """
    apart = 1 - levels
    best, second = np.full(count, np.inf), np.full(count, np.inf)
    for (first, other), own in zip(pairs, apart):
        for image in (first, other):
            if own < best[image]:
                best[image], second[image] = own, best[image]
            elif own < second[image]:
                second[image] = own
    others = np.min(
        [np.where(apart == best[image], second[image], best[image]) for image in pairs.T], axis=0
    )
    sure = (levels > _SURE) & (detail > _SURE_DETAIL)
    return sure | ((levels > _SAME) & (detail > _SAME_DETAIL) & (apart < _FAR_BELOW * others))


def _candidates(greys: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Int `[pairs, 2]`, each once, the first below the second."""
    count = len(greys)
    small = _blurred(greys[:, ::3, ::3].astype(np.float32)).reshape(count, -1)
    small -= small.mean(axis=1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True) + 1e-6
    signs = np.where(hashes, 1, -1).astype(np.float32)
    pairs = []
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        own = np.arange(start, min(start + _ROWS, count))
        differing = (hashes.shape[1] - signs[rows] @ signs.T) / 2
        alike = small[rows] @ small.T
        differing[np.arange(len(own)), own], alike[np.arange(len(own)), own] = np.inf, -np.inf
        # Images without much in them have hashes that say little.
        first, second = np.nonzero((differing <= _HASH_BITS) & (alike > _ALIKE))
        pairs.append(np.stack([own[first], second], axis=1))
        kept = min(_NEIGHBOURS, count - 1)
        nearest = np.argpartition(-alike, kept - 1, axis=1)[:, :kept] if kept > 0 else alike[:, :0]
        nearest = nearest.astype(int)
        first = np.repeat(own, nearest.shape[1])
        close = np.take_along_axis(alike, nearest, axis=1).ravel() > _ALIKE
        pairs.append(np.stack([first, nearest.ravel()], axis=1)[close])
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _compared(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair the correlation of levels and of edges, once one lies on the other."""
    fixed, moving = (_blurred(own.astype(np.float32)) for own in (first, second))
    side = fixed.shape[1] // 2
    half, other = (own.reshape(-1, side, 2, side, 2).mean(axis=(2, 4)) for own in (fixed, moving))
    warp, levels = _aligned(half, other)
    detail = _detail(half, other, warp)
    near = np.flatnonzero(levels > _WORTH_IT)
    if len(near):
        fixed, moving, warp = fixed[near], moving[near], warp[near]
        for _ in range(_FINE_STEPS):
            warp = _better(fixed, moving, warp)
        moved, inside = _sampled(moving, warp)
        covered = inside.mean(axis=(1, 2)) > _OVERLAP
        levels[near] = np.where(covered, _correlation(fixed, moved, inside), 0)
        detail[near] = _detail(fixed, moving, warp)
    return levels, detail


def _detail(fixed: np.ndarray, moving: np.ndarray, warp: np.ndarray) -> np.ndarray:
    moved, inside = _sampled(moving, warp)
    across, down = (
        _correlation(_edges(fixed, axis), _edges(moved, axis), inside) for axis in (2, 1)
    )
    return (across + down) / 2


def _aligned(fixed: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best warp of each pair by Gauss-Newton from several magnifications, and how well."""
    best, likeness = np.zeros((len(fixed), 4), np.float32), np.full(len(fixed), -1, np.float32)
    for start in _STARTS:
        warp = np.tile(np.array([start, 0, start, 0], np.float32), (len(fixed), 1))
        for _ in range(_STEPS):
            warp = _better(fixed, moving, warp)
        own = _correlation(fixed, *_sampled(moving, warp))
        better = own > likeness
        best[better], likeness[better] = warp[better], own[better]
    return best, likeness


def _better(fixed: np.ndarray, moving: np.ndarray, warp: np.ndarray) -> np.ndarray:
    """Warps `[pairs, 4]` (magnification and shift across, then down), one step better."""
    side = fixed.shape[1]
    place = np.linspace(-1, 1, side, dtype=np.float32)
    moved, inside = _sampled(moving, warp)
    across, down = (_edges(moved, axis) * (side - 1) / 2 for axis in (2, 1))
    # Brightness and contrast are free: two more columns of the least squares.
    columns = np.stack(
        [across * place, across, down * place[:, None], down, moved, np.ones_like(moved)], axis=1
    )
    columns = (columns * inside[:, None]).reshape(len(fixed), 6, -1)
    wanted = (fixed * inside).reshape(len(fixed), -1, 1)
    square = columns @ columns.transpose(0, 2, 1)
    scale = np.trace(square, axis1=1, axis2=2)[:, None, None]
    solved = np.linalg.solve(square + 1e-6 * scale * np.eye(6, dtype=np.float32), columns @ wanted)[
        ..., 0
    ]
    gain = np.clip(solved[:, 4:5], 0.3, 3)
    warp = warp + np.clip(solved[:, :4] / gain, -0.1, 0.1)
    warp[:, ::2] = np.clip(warp[:, ::2], 0.8, 1.25)
    return warp


def _sampled(images: np.ndarray, warp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images where a warp looks, and where that lies within them."""
    side = images.shape[1]
    place = np.linspace(-1, 1, side, dtype=np.float32)
    looks = [
        (place * warp[:, at : at + 1] + warp[:, at + 1 : at + 2] + 1) * (side - 1) / 2
        for at in (0, 2)
    ]
    moved = images
    # Across and down one after the other, each by two neighbours.
    for look, axis in zip(looks, (2, 1)):
        low = np.clip(np.floor(look).astype(int), 0, side - 2)
        part = np.clip(look - low, 0, 1)
        shape = (len(images), 1, side) if axis == 2 else (len(images), side, 1)
        low, part = low.reshape(shape), part.reshape(shape)
        moved = (1 - part) * np.take_along_axis(moved, low, axis) + part * np.take_along_axis(
            moved, low + 1, axis
        )
    across, down = ((look >= 0) & (look <= side - 1) for look in looks)
    return moved.astype(np.float32), (down[:, :, None] & across[:, None, :])


def _correlation(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> np.ndarray:
    weight = inside / np.maximum(inside.sum(axis=(1, 2), keepdims=True), 1)
    first = first - (first * weight).sum(axis=(1, 2), keepdims=True)
    second = second - (second * weight).sum(axis=(1, 2), keepdims=True)
    both = (first * second * weight).sum(axis=(1, 2))
    squares = (first**2 * weight).sum(axis=(1, 2)) * (second**2 * weight).sum(axis=(1, 2))
    return both / np.sqrt(squares + 1e-6)


def _edges(images: np.ndarray, axis: int) -> np.ndarray:
    return np.gradient(images, axis=axis)


def _blurred(images: np.ndarray) -> np.ndarray:
    """By 1, 2, 1 across and down, the border repeated."""
    for axis in (1, 2):
        pads = [(0, 0)] * 3
        pads[axis] = (1, 1)
        wide = np.pad(images, pads, mode="edge")
        size = images.shape[axis]
        left, middle, right = (np.take(wide, range(at, at + size), axis) for at in (0, 1, 2))
        images = (left + 2 * middle + right) / 4
    return images
