"""Letters and digits drawn from font files: the images that the bundled backbone learns from."""

import dataclasses
import string
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, MinLen
from PIL import Image, ImageDraw, ImageFont

from jtl.data.fonts import Font, FontRecord, LeftOut, alike_problem, find_fonts
from jtl.errors import DataError

# Glyphs are drawn this many times larger, so that edges come out smooth.
_OVERSAMPLING = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlyphOptions:
    """What is drawn.

    Attributes:
        fonts: folders of TTF and OTF files, besides the fonts that matplotlib ships.
        characters: one class each, in this order.
        size: side of an image, in pixels.
        margin: pixels that stay empty around a glyph's box.
        strokes: pixels by which strokes are thickened, or thinned where negative; each glyph is
            drawn once with each of them.
        favoured: words of family names, such as those of handwriting, whose glyphs are drawn
            once with each of `favoured_strokes` instead.
        favoured_strokes: as `strokes`.
        per_family: at most this many font files of one family.
    """

    fonts: tuple[str, ...] = ()
    characters: Annotated[str, MinLen(2)] = (
        string.digits + string.ascii_uppercase + string.ascii_lowercase
    )
    size: Annotated[int, Ge(8)] = 32
    margin: Annotated[int, Ge(0)] = 2
    strokes: Annotated[tuple[float, ...], MinLen(1)] = (0.0,)
    favoured: tuple[str, ...] = ()
    favoured_strokes: Annotated[tuple[float, ...], MinLen(1)] = (0.0,)
    per_family: Annotated[int, Ge(1)] = 4

    def strokes_of(self, family: str) -> tuple[float, ...]:
        """The strokes that a family of fonts is drawn with."""
        favoured = any(word.lower() in family.lower() for word in self.favoured)
        return self.favoured_strokes if favoured else self.strokes


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlyphSet:
    """Drawn characters, white on black, font by font.

    Attributes:
        images: uint8 `[n, size, size, 3]` in 0..255.
        labels: int32 `[n]`, the index into `classes`.
        font_index: int32 `[n]`, the index into `fonts`.
        classes: the characters.
        fonts: the fonts that were drawn from.
        left_out: the font files that were not, each with the reason.
    """

    images: np.ndarray
    labels: np.ndarray
    font_index: np.ndarray
    classes: tuple[str, ...]
    fonts: tuple[FontRecord, ...]
    left_out: tuple[LeftOut, ...]


def render_glyphs(options: GlyphOptions) -> GlyphSet:
    """Draw every character in every usable font, in an order that names and contents fix.

    Each glyph is scaled so that its box fills the image but for the margin, and set in the middle.

    Raises:
        DataError: a folder does not exist, no font is usable, or the characters repeat.
    """
    _check(options)
    folders = (_matplotlib_fonts(), *map(Path, options.fonts))
    fonts, left_out = find_fonts(folders, options.characters, options.per_family)
    drawn = {font: _draw_font(font, options) for font in fonts}
    used = [font for font, glyphs in drawn.items() if not isinstance(glyphs, str)]
    left_out += tuple(
        LeftOut(file=font.record.file, reason=glyphs)
        for font, glyphs in drawn.items()
        if isinstance(glyphs, str)
    )
    if not used:
        raise DataError(
            "no usable font: each needs a free licence and a glyph for every character; left out: "
            + "; ".join(f"{one.file} ({one.reason})" for one in left_out[:5])
        )
    grey = np.concatenate([drawn[font] for font in used])
    characters = np.arange(len(options.characters), dtype=np.int32)
    copies = [len(options.strokes_of(font.record.family)) for font in used]
    per_font = [len(characters) * count for count in copies]
    return GlyphSet(
        images=np.repeat(grey[..., None], 3, axis=-1),
        labels=np.concatenate([np.repeat(characters, count) for count in copies]),
        font_index=np.repeat(np.arange(len(used), dtype=np.int32), per_font),
        classes=tuple(options.characters),
        fonts=tuple(font.record for font in used),
        left_out=left_out,
    )


def _check(options: GlyphOptions) -> None:
    repeated = sorted({c for c in options.characters if options.characters.count(c) > 1})
    if repeated:
        raise DataError(
            f"characters has {' '.join(repeated)} more than once; each class stands there once."
        )
    if 2 * options.margin >= options.size:
        raise DataError(
            f"margin={options.margin} leaves nothing of size={options.size}; set it below "
            f"{options.size // 2}."
        )


def _matplotlib_fonts() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _draw_font(font: Font, options: GlyphOptions) -> np.ndarray | str:
    """Uint8 `[characters × strokes, size, size]`, or why this font cannot be used."""
    try:
        # The basic layout engine is everywhere the same; the other depends on system libraries.
        face = ImageFont.truetype(
            font.path, options.size * _OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC
        )
        shapes = {character: _shape(face, character) for character in options.characters}
    except OSError as error:
        return f"cannot be drawn: {error}"
    blank = [character for character, shape in shapes.items() if shape is None]
    if blank:
        return f"draws nothing for {' '.join(blank[:8])}"
    if problem := alike_problem(_same_pictures(shapes)):
        return problem
    large = [_place(shape, options) for shape in shapes.values() if shape is not None]
    strokes = options.strokes_of(font.record.family)
    return np.stack([_finish(glyph, stroke) for glyph in large for stroke in strokes])


def _shape(face: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """One character cut to its ink, or None if there is none."""
    left, top, right, bottom = face.getbbox(character)
    width, height = int(right - left), int(bottom - top)
    if width <= 0 or height <= 0:
        return None
    canvas = Image.new("L", (width + 2, height + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), character, fill=255, font=face)
    box = canvas.getbbox()
    return canvas.crop(box) if box else None


def _same_pictures(shapes: dict[str, Image.Image | None]) -> list[str]:
    """The characters grouped by picture."""
    groups: dict[tuple[tuple[int, int], bytes], str] = {}
    for character, shape in shapes.items():
        if shape is not None:
            picture = (shape.size, shape.tobytes())
            groups[picture] = groups.get(picture, "") + character
    return list(groups.values())


def _place(shape: Image.Image, options: GlyphOptions) -> np.ndarray:
    """A glyph scaled to its box in the middle of an oversampled image, uint8 `[side, side]`."""
    side = options.size * _OVERSAMPLING
    box = (options.size - 2 * options.margin) * _OVERSAMPLING
    factor = box / max(shape.size)
    width, height = (max(1, round(length * factor)) for length in shape.size)
    canvas = Image.new("L", (side, side))
    scaled = shape.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(scaled, ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas)


def _finish(large: np.ndarray, stroke: float) -> np.ndarray:
    """The image at its own size with thicker or thinner strokes, uint8 `[size, size]`."""
    pixels = round(stroke * _OVERSAMPLING)
    return np.asarray(Image.fromarray(_thicken(large, pixels)).reduce(_OVERSAMPLING))


def _thicken(image: np.ndarray, pixels: int) -> np.ndarray:
    """Grow bright strokes by some pixels, half on each side; a negative number thins them."""
    extreme = np.maximum if pixels > 0 else np.minimum
    count = abs(pixels)
    edges = (count // 2, count - count // 2)
    for axis in (0, 1):
        padded = np.pad(image, [edges if own == axis else (0, 0) for own in (0, 1)], mode="edge")
        length = image.shape[axis]
        windows = [slice(start, start + length) for start in range(count + 1)]
        image = padded[windows[0]] if axis == 0 else padded[:, windows[0]]
        for window in windows[1:]:
            image = extreme(image, padded[window] if axis == 0 else padded[:, window])
    return image
