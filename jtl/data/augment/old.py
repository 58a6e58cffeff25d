"""Augmentation on the device: pure functions of one image and that example's own key."""

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Interval

from jtl.data.crop import CropOptions
from jtl.errors import ConfigError

Range = tuple[float, float]
Fill = Literal["edge"] | Annotated[float, Interval(ge=0, le=255)]
Operation = Callable[[jax.Array, jax.Array], jax.Array]

_UNIT: Range = (1.0, 1.0)
_ZERO: Range = (0.0, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """How training images are varied; every default leaves them as they are.

    A range `(low, high)` is drawn from uniformly, a single amount from `-amount` to `+amount`.

    Attributes:
        crop: a crop at random, resized to the network's size, made while an image is read and so
            before everything else here; None takes the whole image.
        flip: probability of a mirror image, left to right.
        crop_padding: pixels added on each side before a random crop back to the image's size.
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
        resolution: side in pixels, drawn from this range, to which the image shrinks before it
            grows back to its size; None leaves it sharp.
        blur: standard deviation of a Gaussian, in pixels.
        noise: standard deviation of Gaussian noise, in levels of 0..255.
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
    resolution: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] | None = None
    blur: Range = _ZERO
    noise: Annotated[float, Ge(0)] = 0.0
    mixup: Annotated[float, Ge(0)] = 0.0
    cutmix: Annotated[float, Ge(0)] = 0.0
    views: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name}=({low:g}, {high:g}) must run upwards from {bound}"
            for name, (low, high), bound, valid in (
                ("scale", self.scale, "a factor above 0", self.scale[0] > 0),
                ("gamma", self.gamma, "an exponent above 0", self.gamma[0] > 0),
                ("resolution", self.resolution or _UNIT, "1 or more pixels", True),
                ("blur", self.blur, "0 or more pixels", self.blur[0] >= 0),
            )
            if not valid or low > high
        ]
        if problems:
            raise ConfigError(
                f"augmentation: {'; '.join(problems)}; write [low, high], such as [0.8, 1.2]."
            )


def make_augment(options: AugmentOptions) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function that varies a batch as the options say.

    The function takes images, uint8 or float `[batch, height, width, channel]` in 0..255, and one
    typed key per example `[batch]`, and returns float32 images in 0..255. Each example depends on
    its own key alone, whatever the batch around it; each operation draws from that key folded
    with the operation's name, so that switching one on leaves the draws of the others alone.
    """
    operations = _operations(options)

    def augment_one(image: jax.Array, key: jax.Array) -> jax.Array:
        image = image.astype(jnp.float32)
        for name, operation in operations.items():
            image = operation(image, jax.random.fold_in(key, zlib.crc32(name.encode())))
        return jnp.clip(image, 0.0, 255.0) if operations else image

    def augment(images: jax.Array, keys: jax.Array) -> jax.Array:
        return jax.vmap(augment_one)(images, keys)

    return augment


def _operations(options: AugmentOptions) -> dict[str, Operation]:
    """The operations that are on, in order: geometry first, sensor noise last."""
    geometry = (options.rotate, options.stretch, options.shear, options.translate, options.elastic)
    table: dict[str, tuple[bool, Operation]] = {
        "flip": (options.flip > 0, lambda i, k: flip(i, k, options.flip)),
        "crop": (
            options.crop_padding > 0,
            lambda i, k: crop(i, k, options.crop_padding, options.fill),
        ),
        "warp": (any(geometry) or options.scale != _UNIT, lambda i, k: warp(i, k, options)),
        "gamma": (options.gamma != _UNIT, lambda i, k: gamma(i, k, options.gamma)),
        "invert": (options.invert > 0, lambda i, k: invert(i, k, options.invert)),
        "brightness": (options.brightness > 0, lambda i, k: brightness(i, k, options.brightness)),
        "contrast": (options.contrast > 0, lambda i, k: contrast(i, k, options.contrast)),
        "resolution": (
            options.resolution is not None,
            lambda i, k: lower_resolution(i, k, options.resolution or (1, 1)),
        ),
        "blur": (options.blur != _ZERO, lambda i, k: blur(i, k, options.blur)),
        "noise": (options.noise > 0, lambda i, k: noise(i, k, options.noise)),
    }
    return {name: operation for name, (on, operation) in table.items() if on}


def flip(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Mirror left to right with this probability; `[height, width, channel]`, as all below."""
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def crop(image: jax.Array, key: jax.Array, padding: int, fill: Fill) -> jax.Array:
    """A window of the image's own size at a random place in the padded image."""
    edges = ((padding, padding), (padding, padding), (0, 0))
    if fill == "edge":
        padded = jnp.pad(image, edges, mode="edge")
    else:
        padded = jnp.pad(image, edges, constant_values=fill)
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def warp(image: jax.Array, key: jax.Array, options: AugmentOptions) -> jax.Array:
    """Rotate, scale, stretch, shear, translate and bend, in one bilinear resampling."""
    height, width, _ = image.shape
    affine_key, bend_key = jax.random.split(key)
    matrix, shift = _affine(affine_key, options)
    middle = (height - 1) / 2, (width - 1) / 2
    row = jnp.arange(height)[:, None] - middle[0] - shift[0] * height
    column = jnp.arange(width)[None, :] - middle[1] - shift[1] * width
    # Written out for two coordinates: as a matrix product an accelerator would round to bfloat16.
    rows = matrix[0, 0] * row + matrix[0, 1] * column + middle[0]
    columns = matrix[1, 0] * row + matrix[1, 1] * column + middle[1]
    if options.elastic > 0:
        bumps = _bumps(bend_key, height, width, options.elastic)
        rows, columns = rows + bumps[..., 0], columns + bumps[..., 1]
    return resample(image, rows, columns, options.fill)


def resample(image: jax.Array, rows: jax.Array, columns: jax.Array, fill: Fill) -> jax.Array:
    """The image read at fractional places, bilinearly.

    Args:
        image: `[height, width, channel]`.
        rows: `[out_height, out_width]`, where each output pixel comes from, in pixels.
        columns: likewise.
        fill: what lies outside the image.
    """
    height, width, channels = image.shape
    pixels = jnp.asarray(image).reshape(height * width, channels)
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, across = rows - top, columns - left
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)

    def tap(row: jax.Array, column: jax.Array, weight: jax.Array) -> jax.Array:
        place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        values = pixels.at[place].get(mode="promise_in_bounds")
        if fill != "edge":
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            values = jnp.where(inside[..., None], values, fill)
        return values * weight[..., None]

    upper = tap(top, left, (1 - down) * (1 - across)) + tap(top, left + 1, (1 - down) * across)
    lower = tap(top + 1, left, down * (1 - across)) + tap(top + 1, left + 1, down * across)
    return upper + lower


def gamma(image: jax.Array, key: jax.Array, exponents: Range) -> jax.Array:
    """Raise the levels, as fractions of 255, to an exponent."""
    exponent = jax.random.uniform(key, (), minval=exponents[0], maxval=exponents[1])
    return 255.0 * (jnp.clip(image, 0.0, 255.0) / 255.0) ** exponent


def invert(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Exchange dark and bright with this probability."""
    return jnp.where(jax.random.bernoulli(key, probability), 255.0 - image, image)


def brightness(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Add one level to the whole image, at most `amount` of 255 up or down."""
    return image + 255.0 * _symmetric(key, amount)


def contrast(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Scale the distance of every level from the image's mean."""
    mean = image.mean()
    return mean + (image - mean) * (1.0 + _symmetric(key, amount))


def lower_resolution(image: jax.Array, key: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """Shrink to a random side, averaging, and grow back bilinearly."""
    choice = jax.random.randint(key, (), 0, sides[1] - sides[0] + 1)
    height, width, _ = image.shape

    def there_and_back(length: int) -> jax.Array:
        return jnp.stack([_shrink_and_grow(length, n) for n in range(sides[0], sides[1] + 1)])[
            choice
        ]

    return jnp.einsum(
        "hy,yxc,wx->hwc",
        there_and_back(height),
        image,
        there_and_back(width),
        precision=jax.lax.Precision.HIGHEST,
    )


def blur(image: jax.Array, key: jax.Array, sigmas: Range) -> jax.Array:
    """Blur with a Gaussian, first down the columns and then along the rows."""
    sigma = jax.random.uniform(key, (), minval=sigmas[0], maxval=sigmas[1])
    height, width, _ = image.shape
    return jnp.einsum(
        "hy,yxc,wx->hwc",
        _gaussian(height, sigma),
        image,
        _gaussian(width, sigma),
        precision=jax.lax.Precision.HIGHEST,
    )


def noise(image: jax.Array, key: jax.Array, sigma: float) -> jax.Array:
    """Add independent noise to every value of every channel."""
    # Random bits are the dearest part of all augmentation: each random word serves four values,
    # each of which takes one of 256 quantiles of the normal distribution.
    words = jax.random.bits(key, (math.ceil(image.size / 4),), jnp.uint32)
    levels = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: image.size]
    quantiles = (levels.astype(jnp.float32) + 0.5) / 128.0 - 1.0
    normal = math.sqrt(2.0) * jax.lax.erf_inv(quantiles)
    return image + sigma * normal.reshape(image.shape)


def _symmetric(key: jax.Array, amount: float, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-amount, maxval=amount)


def _gaussian(size: int, sigma: jax.Array) -> jax.Array:
    """What each of `size` pixels takes from each other, `[size, size]`; every row sums to 1."""
    distance = jnp.arange(size)[:, None] - jnp.arange(size)[None, :]
    # Far below a pixel the kernel is the centre alone, which is what sigma 0 must give too.
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-2)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def _shrink_and_grow(length: int, side: int) -> jax.Array:
    """What each pixel takes from each other on the way to `side` pixels and back, `[l, l]`."""
    small = jax.image.resize(jnp.eye(length), (side, length), "linear", antialias=True)
    return jax.image.resize(small, (length, length), "linear")


def _affine(key: jax.Array, options: AugmentOptions) -> tuple[jax.Array, jax.Array]:
    """From output to source: a matrix over (row, column), and a shift as fractions of the side."""
    keys = jax.random.split(key, 5)
    angle = jnp.deg2rad(_symmetric(keys[0], options.rotate))
    scale = jax.random.uniform(keys[1], (), minval=options.scale[0], maxval=options.scale[1])
    # Half of the change goes to each direction, so that the area stays as it is.
    aspect = jnp.exp(_symmetric(keys[2], 0.5 * math.log1p(options.stretch)))
    lean = jnp.tan(jnp.deg2rad(_symmetric(keys[3], options.shear)))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    down, across = aspect / scale, 1.0 / (aspect * scale)
    # Undo the rotation, then the lean, then the sizes.
    first = jnp.stack([down * cos, down * sin])
    second = jnp.stack([across * (lean * cos - sin), across * (lean * sin + cos)])
    return jnp.stack([first, second]), _symmetric(keys[4], options.translate, (2,))


def _bumps(key: jax.Array, height: int, width: int, amount: float) -> jax.Array:
    """A smooth random displacement `[height, width, 2]`, at most `amount` pixels each way."""
    coarse = _symmetric(key, amount, (5, 5, 2))
    return jax.image.resize(coarse, (height, width, 2), "linear")
