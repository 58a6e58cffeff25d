"""From the bytes of an image file to upright pixels: the one way to reach an image."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from jtl.data.sources.listing import read_regular
from jtl.data.sources.names import shown
from jtl.data.sources.protocol import Image as Stored
from jtl.errors import DataError

# What Pillow warns of: 256 MiB of RGB.
MAX_PIXELS = 89_478_485
# The formats that are read at all; no other decoder ever sees a user's file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# EXIF's orientations as (transposed, upside down, mirrored), in this order of operations.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_ORIENTATION = 0x0112
# The tag's number in either order of bytes, and its name in XMP.
_ORIENTATION_TAGS = (b"\x01\x12", b"\x12\x01", b"tiff:Orientation")
_APP1, _START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG file


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image whose size is known, and in a JPEG file before its pixels are decoded.

    Attributes:
        height: of the upright image, pixels.
        width: likewise.
        decode: the pixels, at full size or up to so many times smaller.
    """

    height: int
    width: int
    decode: Callable[[float], np.ndarray]

    def pixels(self, shrink: float = 1.0) -> np.ndarray:
        """uint8 `[height, width, 3]`, or with a fourth channel of alpha.

        Args:
            shrink: how many times smaller the image may come, where that saves time.

        Raises:
            DataError: it cannot be decoded.
        """
        return self.decode(shrink)


def open_picture(image: Stored, where: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """An image as a source holds it.

    Levels of 16 bits become 8; a photograph is turned upright as its EXIF data says; of an
    animation the first frame is taken.

    Args:
        image: the bytes of a file, or uint8 `[height, width, 3]` or with a fourth channel.
        where: what messages call it.
        max_pixels: more of them are refused before they are decoded. Where it is above Pillow's
            own limit, that one is raised for the whole process.

    Raises:
        DataError: it is no image that can be read, too large, or its levels have no known range.
    """
    if isinstance(image, np.ndarray):
        array = image
        return Picture(height=len(array), width=array.shape[1], decode=lambda _: array)
    if len(image) == 0:
        raise DataError(f"{where} is an empty file.")
    if image[:2] == b"\xff\xd8":
        return _open_jpeg(image, where, max_pixels)
    return _open_other(image, where, max_pixels)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file as uint8 `[height, width, 3]`, or with a fourth channel of alpha.

    Args:
        path: of the file.
        max_pixels: more of them are refused before they are decoded.

    Raises:
        DataError: there is no such file, it is no image that can be read, it is too large, or
            its levels have no known range.
    """
    return open_picture(read_file(path), shown(str(path)), max_pixels).pixels()


def read_file(path: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    where = shown(str(path))
    try:
        return read_regular(path)
    except FileNotFoundError as error:
        raise DataError(f"{where}: there is no such image.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{where} cannot be read: {reason}.") from error


def check_size(height: int, width: int, where: str, max_pixels: int) -> None:
    """Refuses an image that is too large.

    Args:
        height: of the image, pixels.
        width: likewise.
        where: what messages call it.
        max_pixels: that it may have.

    Raises:
        DataError: it has more.
    """
    if height * width > max_pixels:
        raise DataError(
            f"{where} has {width}×{height} pixels, more than data.max_pixels={max_pixels}; raise "
            "it if the image is what it should be."
        )


def upright_pixels(image: Image.Image, where: str) -> np.ndarray:
    """An image that Pillow has opened, as uint8 `[height, width, 3]`, or 4 channels with alpha.

    Levels of 16 bits become 8; the image is turned upright as its EXIF data says, unless that is
    damaged.

    Args:
        image: of any mode; is loaded where it is not.
        where: what messages call it.

    Raises:
        DataError: it cannot be decoded, or its levels have no known range.
    """
    with _clear_errors(where):
        image.load()  # TIFF files are turned by this, and PNG files may have their EXIF data last
        return _turned(_to_8_bits(image), _orientation(image))


def over_background(image: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """The image without transparency: what lies under it is one colour.

    Args:
        image: uint8 `[height, width, 3]`, which comes back as it is, or with alpha as a fourth
            channel.
        background: the RGB colour, each in 0..255.

    Raises:
        DataError: another number of channels, or another dtype.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise DataError(
            f"an image of {image.dtype}{list(image.shape)} cannot be prepared; "
            "give uint8 [height, width, 3] in RGB, or 4 channels with alpha."
        )
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.float32) / 255
    under = np.asarray(background, np.float32).reshape(1, 1, 3)
    return np.rint(image[..., :3] * alpha + under * (1 - alpha)).astype(np.uint8)


def _open_jpeg(data: bytes, where: str, max_pixels: int) -> Picture:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return _open_other(data, where, max_pixels)
    if colours not in ("YCbCr", "Gray", "RGB"):
        return _open_other(data, where, max_pixels)
    check_size(height, width, where, max_pixels)
    turn = _jpeg_orientation(data)

    def decode(shrink: float) -> np.ndarray:
        # The decoder halves in the frequency domain, where that is cheaper than pixels.
        factor = max(n for n in (1, 2, 4, 8) if n <= max(shrink, 1))
        sides = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
        try:
            pixels = simplejpeg.decode_jpeg(data, **(sides if factor > 1 else {}))
        except ValueError:
            # Pillow forgives what no one sees, such as bytes between two markers.
            return _open_other(data, where, max_pixels).pixels()
        return _turned(pixels, turn)

    size = (width, height) if _TURNS[turn][0] else (height, width)
    return Picture(height=size[0], width=size[1], decode=decode)


def _jpeg_orientation(data: bytes) -> int:
    """What Pillow says of it, asked only where the file's notes may hold an orientation."""
    place = 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _START_OF_SCAN:
            return 1
        notes = data[place + 4 : place + 2 + length] if marker == _APP1 else b""
        if any(tag in notes for tag in _ORIENTATION_TAGS):
            break
        place += 2 + length
    try:
        return _orientation(_identified(data))
    except Exception:  # damage is for the decoder to find
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a photograph with damaged notes is still a photograph
        return 1
    return turn if turn in _TURNS else 1


def _turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    transposed, upside_down, mirrored = _TURNS[turn]
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    if upside_down:
        pixels = pixels[::-1]
    if mirrored:
        pixels = pixels[:, ::-1]
    return pixels if turn == 1 else np.ascontiguousarray(pixels)


def _open_other(data: bytes, where: str, max_pixels: int) -> Picture:
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        # A limit for all threads: setting it for one image alone would let them wait in line.
        Image.MAX_IMAGE_PIXELS = max_pixels
    with _clear_errors(where):
        image = _identified(data)
    check_size(image.height, image.width, where, max_pixels)
    pixels = upright_pixels(image, where)
    return Picture(height=len(pixels), width=pixels.shape[1], decode=lambda _: pixels)


def _identified(data: bytes) -> Image.Image:
    """The image, not yet decoded; its size is for the caller to check."""
    Image.preinit()
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(data[:16])
        if accepted and not isinstance(accepted, str):
            return factory(io.BytesIO(data), "")
    raise ValueError(f"it is none of {', '.join(FORMATS)}")


def _to_8_bits(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        # Pillow would cut all levels above 255 off.
        levels = np.asarray(image)
        grey = np.rint(levels.astype(np.float32) / 257).astype(np.uint8)
        clear = image.info.get("transparency")
        alpha = [] if clear is None else [np.where(levels == clear, 0, 255).astype(np.uint8)]
        return np.stack([grey, grey, grey, *alpha], axis=-1)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"it has 32-bit levels (mode {image.mode}), whose range is not known; save it with 8 "
            "or 16 bits a channel"
        )
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return np.asarray(image.convert(mode))


@contextmanager
def _clear_errors(where: str) -> Iterator[None]:
    """Turns what decoders raise over damaged files, of many kinds, into one error."""
    try:
        yield
    except Exception as error:
        text = shown(str(error)).rstrip(".") or type(error).__name__
        raise DataError(f"{where} is no image that can be read: {text}.") from error
