"""What may be asked of augmentation: ranges, probabilities and policies."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from jtl.data.crop import CropOptions
from jtl.errors import ConfigError

Range = tuple[float, float]
Fill = Literal["edge"] | Annotated[float, Interval(ge=0, le=255)]
EraseFill = Literal["grey", "mean", "noise"]

BINS = 31  # magnitudes 0..30 of a policy

_UNIT: Range = (1.0, 1.0)
_ZERO: Range = (0.0, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugmentOptions:
    """Operations in a row, each one of 14 at random (Cubuk et al. 2019, arXiv:1909.13719).

    Attributes:
        layers: how many operations.
        magnitude: of all of them, on a scale where 0 is least and 30 the end of every range: a
            lean of 0.3, a shift by 45 % of the side, 30 degrees, factors of 0.1 and 1.9, 4 bits.
    """

    layers: Annotated[int, Ge(1)] = 2
    magnitude: Annotated[int, Interval(ge=0, le=BINS - 1)] = 9

    def __post_init__(self) -> None:
        problems = []
        if self.layers < 1:
            problems.append(f"layers={self.layers} must be 1 or more")
        if not 0 <= self.magnitude < BINS:
            problems.append(f"magnitude={self.magnitude} must lie in 0..{BINS - 1}")
        if problems:
            raise ConfigError(f"augment.randaugment: {'; '.join(problems)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """How training images are varied; every default leaves them as they are.

    A range `(low, high)` is drawn from uniformly, a single amount from `-amount` to `+amount`.

    Attributes:
        crop: a crop at random, resized to the network's size, made while an image is read and so
            before everything else here; None takes the whole image.
        flip: probability of a mirror image, left to right.
        crop_padding: pixels added on each side before a random crop back to the image's size.
        randaugment: so many operations of one magnitude; None makes none.
        trivialaugment: one operation of a magnitude at random, of the wide ranges (Müller and
            Hutter 2021, arXiv:2103.10158).
        rotate: degrees.
        scale: factor of magnification, about the middle.
        stretch: how far the ratio of width to height may change: 0.25 is up to ×1.25 or /1.25.
        shear: degrees by which upright lines lean.
        translate: fraction of the side, in each direction.
        elastic: pixels by which smooth bumps, a quarter of the side wide, shift the image.
        fill: what comes in from outside: the nearest edge pixel, or a grey level in 0..255.
        gamma: exponent on the levels as a fraction of 255; above 1 thins bright strokes.
        invert: probability that every level becomes 255 minus it.
        brightness: fraction of 255 that is added.
        contrast: fraction by which the distance to the image's mean grows or shrinks.
        saturation: fraction by which the distance to each pixel's grey grows or shrinks.
        hue: fraction of the circle of colours by which all turn.
        resolution: side in pixels, drawn from this range, to which the image shrinks before it
            grows back to its size; None leaves it sharp.
        blur: standard deviation of a Gaussian, in pixels.
        noise: standard deviation of Gaussian noise, in levels of 0..255.
        erase: probability that a rectangle is covered (Zhong et al. 2017, arXiv:1708.04896).
        erase_area: of the rectangle, as a fraction of the image's.
        erase_ratio: of its height to its width, drawn by logarithm.
        erase_fill: what covers it: level 128, the image's mean colour, or a level at random for
            every value.
        mixup: the parameter of the Beta distribution that neighbours in a batch are blended by
            (Zhang et al. 2018, arXiv:1710.09412); 0 blends none.
        cutmix: likewise for the area of a rectangle that they exchange (Yun et al. 2019,
            arXiv:1905.04899); with both on, each pair takes either.
        views: how many ways each image is varied, one an epoch and then again from the first;
            None varies it anew every epoch.
    """

    crop: CropOptions | None = None
    flip: Annotated[float, Interval(ge=0, le=1)] = 0.0
    crop_padding: Annotated[int, Ge(0)] = 0
    randaugment: RandAugmentOptions | None = None
    trivialaugment: bool = False
    rotate: Annotated[float, Interval(ge=0, le=180)] = 0.0
    scale: Range = _UNIT
    stretch: Annotated[float, Ge(0)] = 0.0
    shear: Annotated[float, Interval(ge=0, lt=90)] = 0.0
    translate: Annotated[float, Interval(ge=0, le=1)] = 0.0
    elastic: Annotated[float, Ge(0)] = 0.0
    fill: Fill = "edge"
    gamma: Range = _UNIT
    invert: Annotated[float, Interval(ge=0, le=1)] = 0.0
    brightness: Annotated[float, Interval(ge=0, le=1)] = 0.0
    contrast: Annotated[float, Interval(ge=0, le=1)] = 0.0
    saturation: Annotated[float, Interval(ge=0, le=1)] = 0.0
    hue: Annotated[float, Interval(ge=0, le=0.5)] = 0.0
    resolution: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] | None = None
    blur: Range = _ZERO
    noise: Annotated[float, Ge(0)] = 0.0
    erase: Annotated[float, Interval(ge=0, le=1)] = 0.0
    erase_area: Range = (0.02, 0.4)
    erase_ratio: Range = (0.3, 1 / 0.3)
    erase_fill: EraseFill = "grey"
    mixup: Annotated[float, Ge(0)] = 0.0
    cutmix: Annotated[float, Ge(0)] = 0.0
    views: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        area = self.erase_area
        problems = [
            f"{name}=({low:g}, {high:g}) must run upwards from {bound}; write [low, high], such "
            f"as {example}"
            for name, (low, high), bound, valid, example in (
                ("scale", self.scale, "a factor above 0", self.scale[0] > 0, "[0.8, 1.2]"),
                ("gamma", self.gamma, "an exponent above 0", self.gamma[0] > 0, "[0.8, 1.2]"),
                ("resolution", self.resolution or _UNIT, "1 or more pixels", True, "[16, 32]"),
                ("blur", self.blur, "0 or more pixels", self.blur[0] >= 0, "[0, 1.5]"),
                (
                    "erase_area",
                    area,
                    "above 0 to at most 1",
                    0 < area[0] <= area[1] <= 1,
                    "[0.02, 0.4]",
                ),
                (
                    "erase_ratio",
                    self.erase_ratio,
                    "a ratio above 0",
                    self.erase_ratio[0] > 0,
                    "[0.3, 3.3]",
                ),
            )
            if not valid or low > high
        ]
        if self.randaugment is not None and self.trivialaugment:
            problems.append(
                "randaugment and trivialaugment each choose the operations themselves; set one"
            )
        if problems:
            raise ConfigError(f"augmentation: {'; '.join(problems)}.")
