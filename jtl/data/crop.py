"""Training crops on the host: where each one lies is drawn by seed, view and example."""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from jtl.data.decode import Picture, over_background
from jtl.errors import ConfigError

_TRIES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropOptions:
    """A crop at random of each training image, resized to the network's size.

    Drawn as in Szegedy et al. 2014, arXiv:1409.4842, section 6.

    Attributes:
        area: of the crop, as a fraction of the image's, drawn from this range.
        ratio: of its width to its height, drawn from this range by logarithm.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.area[0] <= self.area[1] <= 1:
            problems.append(f"area={list(self.area)} must run upwards within (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            problems.append(f"ratio={list(self.ratio)} must run upwards from above 0")
        if problems:
            raise ConfigError(f"augment.crop: {'; '.join(problems)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_box(
    options: CropOptions, seed: int, view: int, example: int, size: tuple[int, int]
) -> Box:
    """Where one example is cropped in one view.

    Args:
        options: areas and ratios.
        seed: of the run.
        view: which of the example's views, such as the epoch.
        example: its index in the source.
        size: height and width of the image, pixels.
    """
    height, width = size
    bits = np.random.Philox(key=_key(seed), counter=[0, 0, view, example])
    draws = np.random.Generator(bits).random((_TRIES, 4))
    low, high = (math.log(ratio) for ratio in options.ratio)
    for own in draws:
        area = (options.area[0] + own[0] * (options.area[1] - options.area[0])) * height * width
        ratio = math.exp(low + own[1] * (high - low))
        box = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
        if box[0] <= height and box[1] <= width:
            top, left = int(own[2] * (height - box[0] + 1)), int(own[3] * (width - box[1] + 1))
            return Box(top=top, left=left, height=box[0], width=box[1])
    return _middle(options, height, width)


def crop_into(
    out: np.ndarray, picture: Picture, box: Box, background: tuple[int, int, int]
) -> None:
    """Writes the box, resized, bilinearly or by averaging where it shrinks to half and less.

    Args:
        out: uint8 `[size, size, 3]`.
        picture: the image.
        box: a part of it.
        background: the RGB colour under transparent pixels.
    """
    size = out.shape[0]
    pixels = picture.pixels(min(box.height, box.width) / size)
    # A decoder may have left out detail that the crop does not show.
    down, across = pixels.shape[0] / picture.height, pixels.shape[1] / picture.width
    top, left = int(box.top * down), int(box.left * across)
    bottom = max(top + 1, round((box.top + box.height) * down))
    right = max(left + 1, round((box.left + box.width) * across))
    part = over_background(pixels[top:bottom, left:right], background)
    halved = min(part.shape[:2]) >= 2 * size
    method = cv2.INTER_AREA if halved else cv2.INTER_LINEAR
    cv2.resize(part, (size, size), dst=out, interpolation=method)


def _middle(options: CropOptions, height: int, width: int) -> Box:
    """The largest box in the middle whose ratio is one of those asked for."""
    ratio = min(max(width / height, options.ratio[0]), options.ratio[1])
    own_height = max(1, min(height, round(width / ratio)))
    own_width = max(1, min(width, round(height * ratio)))
    return Box(
        top=(height - own_height) // 2,
        left=(width - own_width) // 2,
        height=own_height,
        width=own_width,
    )


@lru_cache(maxsize=4)
def _key(seed: int) -> Sequence[int]:
    stream = zlib.crc32(b"crop")
    return tuple(np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64).tolist())
