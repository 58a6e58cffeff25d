"""The input record of a set of weights: size, crop, channel order and normalisation."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jtl.data.decode import over_background
from jtl.errors import ConfigError, DataError, WeightsError
from jtl.tree import nearest

Channels = Literal["RGB", "BGR"]
Fit = Literal["crop", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How images reach the network that a set of weights was trained in.

    Every value is `(pixel * scale - mean) / std`, a pixel lying in 0..255 and `mean` and `std`
    standing in the order of `channels`.

    Attributes:
        mean: one number a channel, after `scale`.
        std: one number a channel, after `scale`.
        scale: the factor on a pixel of 0..255.
        channels: the order that the network takes; images always arrive as RGB.
        input_size: side of the square that the network takes, pixels.
        resize: the shorter side before the central crop, pixels.
        fit: `crop` resizes the shorter side to `resize` and cuts the centre; `squash` resizes both
            sides to `input_size` and keeps no aspect ratio.
        interpolation: the resampling filter, antialiased when it shrinks (but for `nearest`).
        background: the RGB colour under transparent pixels, each in 0..255.

    Raises:
        ConfigError: a value that no image could be prepared with; all of them at once.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 1 / 255
    channels: Channels = "RGB"
    input_size: int = 224
    resize: int = 256
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise ConfigError("preprocessing cannot be used: " + "; ".join(problems) + ".")

    @property
    def crop_fraction(self) -> float:
        """The side of the crop over the shorter side of the resized image, in (0, 1]."""
        return 1.0 if self.fit == "squash" else self.input_size / self.resize

    def __call__(self, images: Any) -> np.ndarray:
        """Images as the network takes them.

        Args:
            images: uint8 `[batch, height, width, 3]` in RGB, or with a fourth channel of alpha.

        Returns:
            float32 `[batch, input_size, input_size, 3]`.

        Raises:
            DataError: another shape or dtype.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"preprocessing got {images.dtype}{list(images.shape)}; give uint8 images "
                "[batch, height, width, 3], or call normalize on images already at size."
            )
        size = (self.input_size, self.input_size)
        if images.shape[1:3] != size or images.shape[3] != 3:
            fitted = [self.resize_and_crop(image) for image in images]
            images = np.stack(fitted) if fitted else np.zeros((0, *size, 3), np.uint8)
        return self.normalize(images)

    def resize_and_crop(self, image: np.ndarray) -> np.ndarray:
        """One image at the network's size, still RGB and not normalised.

        Args:
            image: uint8 `[height, width, 3]`, or with a fourth channel of alpha.

        Returns:
            uint8 `[input_size, input_size, 3]`; the very same array where nothing is to be done.

        Raises:
            DataError: another number of channels.
        """
        size = self.input_size
        image = over_background(image, self.background)
        if image.shape[:2] == (size, size):
            return image
        picture = Image.fromarray(image)
        resample = _FILTERS[self.interpolation]
        if self.fit == "squash":
            return np.asarray(picture.resize((size, size), resample))
        picture = picture.resize(self._resized_size(picture.size), resample)
        width, height = picture.size
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(picture.crop((left, top, left + size, top + size)))

    def shrink(self, image: np.ndarray) -> np.ndarray:
        """One image as `resize_and_crop` has it before it cuts, if that is smaller.

        What `resize_and_crop` makes of the result is what it makes of the image, to the bit where
        `fit` is `crop`.

        Args:
            image: uint8 `[height, width, 3]`, or with a fourth channel of alpha.

        Returns:
            uint8 `[height, width, 3]`, the shorter side at most `resize` pixels.

        Raises:
            DataError: another number of channels.
        """
        image = over_background(image, self.background)
        if min(image.shape[:2]) <= self.resize:
            return image
        picture = Image.fromarray(image)
        size = self._resized_size(picture.size)
        return np.asarray(picture.resize(size, _FILTERS[self.interpolation]))

    @property
    def shrinking(self) -> dict[str, Any]:
        """All that `shrink` depends on, as plain values."""
        known = self.to_dict()
        return {name: known[name] for name in ("resize", "interpolation", "background")}

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height once the shorter of them is `resize`."""
        width, height = size
        # The longer side is cut down to a whole number, as torchvision's Resize does.
        return self.resize * width // min(size), self.resize * height // min(size)

    def normalize(self, images: Any) -> Any:
        """Scaled, ordered and normalised values of images that are at size already.

        Works on numpy arrays and, inside or outside jit, on jax arrays.

        Args:
            images: `[..., 3]` in RGB and 0..255, of any dtype.

        Returns:
            The same shape and kind of array: float64 stays float64, all else becomes float32.

        Raises:
            DataError: the last axis does not hold three channels.
        """
        if images.shape[-1:] != (3,):
            raise DataError(
                f"images of shape {list(images.shape)} cannot be normalised; "
                "the last axis must hold the 3 channels R, G, B."
            )
        numbers = jnp if isinstance(images, jax.Array) else np
        dtype = np.float64 if images.dtype == np.float64 else np.float32
        leading = (1,) * (images.ndim - 1)
        mean = numbers.asarray(np.reshape(self.mean, (*leading, 3)), dtype)
        std = numbers.asarray(np.reshape(self.std, (*leading, 3)), dtype)
        pixels = images.astype(dtype)
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        return (pixels * numbers.asarray(self.scale, dtype) - mean) / std

    def restore(self, images: np.ndarray) -> np.ndarray:
        """What `normalize` made normalised values of, to look at.

        Args:
            images: float `[..., 3]`, in the order of `channels`.

        Returns:
            uint8 of the same shape, RGB.
        """
        levels = (images * np.asarray(self.std) + np.asarray(self.mean)) / self.scale
        if self.channels == "BGR":
            levels = levels[..., ::-1]
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)

    def describe(self) -> str:
        """The record in one line, for people."""
        size = f"{self.input_size} px"
        if self.fit == "squash":
            fit = f"squashed to {size}"
        else:
            fit = f"shorter side to {self.resize} px, centre of {size}"
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return (
            f"{self.channels}, {fit} ({self.interpolation}), "
            f"(pixel × {self.scale:.6g} - [{mean}]) / [{std}]"
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that JSON holds exactly."""
        record = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Preprocess":
        """The record that `to_dict` wrote.

        Raises:
            WeightsError: a key that is not known, or a value that cannot be used.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := [key for key in record if key not in names]:
            raise WeightsError(
                f"preprocessing record has unknown entries {unknown}"
                f"{_did_you_mean(unknown[0], names)}; known are {names}."
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in record.items()
        }
        try:
            return cls(**values)
        except ConfigError as error:
            raise WeightsError(str(error)) from error


CAFFE = MappingProxyType(
    # BGR means of ImageNet in 0..255, as the original Caffe VGG and ResNet releases took them:
    # keras/src/applications/imagenet_utils.py, mode "caffe".
    {"mean": (103.939, 116.779, 123.68), "std": (1.0, 1.0, 1.0), "scale": 1.0, "channels": "BGR"}
)
SYMMETRIC = MappingProxyType(
    # Values in [-1, 1]: keras/src/applications/imagenet_utils.py, mode "tf".
    {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
)


def released_preprocess(layout: str, architecture: str, input_size: int) -> Preprocess:
    """What the released weights of a source were trained with, where the file itself is silent.

    Args:
        layout: the key layout's name: `torchvision`, `timm`, `keras` or another.
        architecture: the registry's name of the model.
        input_size: side of the images that the architecture was made for, pixels.
    """
    # 256 before a crop of 224 and 342 before one of 299 are torchvision's presets
    # (torchvision/models/resnet.py, vgg.py, inception.py); other sizes keep the same fraction.
    values: dict[str, Any] = {}
    if architecture.startswith("inception"):
        # torchvision's own Inception rescales ImageNet-normalised input to [-1, 1] inside the
        # network (`transform_input`), so its weights, too, were trained on values in [-1, 1].
        values = dict(SYMMETRIC)
    elif layout == "keras":
        values = dict(SYMMETRIC if architecture.endswith("v2") else CAFFE)
    if layout == "timm" and not values:
        values = {"interpolation": "bicubic"}
    if architecture == "resnet_mini":
        # Characters fill their images: nothing may be cut off.
        values = {"fit": "squash"}
    resize = math.ceil(input_size * 256 / 224)
    return Preprocess(**values, input_size=input_size, resize=resize)


def preprocess_from_timm(config: Mapping[str, Any]) -> Preprocess:
    """The record that a timm `config.json` describes in its `pretrained_cfg`.

    Args:
        config: the parsed file, or its `pretrained_cfg` alone.

    Raises:
        WeightsError: the entries are missing or cannot be used.
    """
    entry = config.get("pretrained_cfg", config)
    try:
        size = int(entry["input_size"][-1])
        return Preprocess(
            mean=tuple(entry["mean"]),
            std=tuple(entry["std"]),
            input_size=size,
            resize=math.floor(size / float(entry.get("crop_pct") or 0.875)),
            fit="squash" if entry.get("crop_mode") == "squash" else "crop",
            interpolation=entry.get("interpolation", "bicubic"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise WeightsError(
            "timm's config.json has no usable input_size, mean and std in its pretrained_cfg: "
            f"{type(error).__name__}: {error}."
        ) from error


def _problems(record: Preprocess) -> list[str]:
    found = []
    for name in ("mean", "std"):
        if not _three(getattr(record, name), float):
            found.append(f"{name}={getattr(record, name)!r} must be three finite numbers")
    if _three(record.std, float) and min(record.std) <= 0:
        found.append(f"std={record.std!r} must be above 0")
    if not _number(record.scale) or record.scale <= 0:
        found.append(f"scale={record.scale!r} must be a number above 0")
    if not _three(record.background, int) or not all(0 <= v <= 255 for v in record.background):
        found.append(f"background={record.background!r} must be three integers in 0..255")
    for name in ("input_size", "resize"):
        value = getattr(record, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found.append(f"{name}={value!r} must be a whole number of pixels above 0")
    choices = {"channels": Channels, "fit": Fit, "interpolation": Interpolation}
    for name, kind in choices.items():
        if getattr(record, name) not in kind.__args__:  # type: ignore[attr-defined]
            found.append(f"{name}={getattr(record, name)!r} must be one of {kind.__args__}")  # type: ignore[attr-defined]
    if not found and record.fit == "crop" and record.resize < record.input_size:
        found.append(f"resize={record.resize} is below input_size={record.input_size}")
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _three(values: Any, kind: type) -> bool:
    if not isinstance(values, tuple) or len(values) != 3:
        return False
    return all(_number(v) and (kind is float or isinstance(v, int)) for v in values)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = nearest(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""
