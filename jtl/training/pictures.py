"""Small pictures of a run that goes on: its confusion matrix, and sheets of examples."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDE = 480  # pixels of a matrix, about
_MOST_NAMES = 40  # classes up to which rows and columns have names
_MOST_COUNTS = 20  # and cells their counts
_LONGEST = 16  # characters of a name
_WHITE, _INK = (255, 255, 255), (25, 30, 40)
_FULL = np.array([8, 48, 107], np.float32)  # the colour of a whole row in one cell
_TILE, _GAP, _LINE = 128, 8, 15  # pixels of an example, between two, and of a line of text


def confusion_picture(counts: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Rows are the true classes, columns the predicted ones, shades the share of the row.

    Args:
        counts: int `[classes, classes]`.
        classes: their names.

    Returns:
        uint8 `[height, width, 3]`.
    """
    width = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = 255 + share[..., None].astype(np.float32) * (_FULL - 255)
    cell = max(1, _SIDE // width)
    cells = np.rint(colours).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    named = width <= _MOST_NAMES and len(classes) == width
    font = _font(max(8, min(13, cell - 2)))
    names = [_shortened(name) for name in classes] if named else []
    margin = 10 + math.ceil(max((font.getlength(name) for name in names), default=0))
    sheet = Image.new("RGB", (margin + cells.shape[1], margin + cells.shape[0]), _WHITE)
    sheet.paste(Image.fromarray(cells), (margin, margin))
    draw = ImageDraw.Draw(sheet)
    middles = [margin + cell * place + cell / 2 for place in range(width)]
    for middle, name in zip(middles, names):
        draw.text((margin - 5, middle), name, _INK, font, anchor="rm")
        _draw_upright(sheet, name, font, middle, margin - 5)
    if width <= _MOST_COUNTS:
        for row, column in zip(*np.nonzero(counts)):
            ink = _WHITE if share[row, column] > 0.5 else _INK
            text = str(int(counts[row, column]))
            draw.text((middles[column], middles[row]), text, ink, font, anchor="mm")
    return np.asarray(sheet)


def example_sheet(images: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    """Images in rows, each with a line or two below it.

    Args:
        images: uint8 `[n, height, width, 3]`, at least one.
        titles: of each.

    Returns:
        uint8 `[height, width, 3]`.
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    lines = max(title.count("\n") + 1 for title in titles)
    wide, high = _TILE + _GAP, _TILE + _GAP + _LINE * lines
    sheet = Image.new("RGB", (columns * wide + _GAP, rows * high + _GAP), _WHITE)
    draw, font = ImageDraw.Draw(sheet), _font(12)
    for place, (image, title) in enumerate(zip(images, titles)):
        left, top = _GAP + place % columns * wide, _GAP + place // columns * high
        small = image.shape[0] < _TILE
        how = Image.Resampling.NEAREST if small else Image.Resampling.BOX
        sheet.paste(Image.fromarray(image).resize((_TILE, _TILE), how), (left, top))
        text = "\n".join(_shortened(line, 22) for line in title.split("\n"))
        draw.multiline_text((left, top + _TILE), text, _INK, font, spacing=2)
    return np.asarray(sheet)


def _draw_upright(sheet: Image.Image, name: str, font: Any, middle: float, bottom: int) -> None:
    left, top, right, low = font.getbbox(name)
    turned = Image.new("RGB", (max(1, right - left), max(1, low - top)), _WHITE)
    ImageDraw.Draw(turned).text((-left, -top), name, _INK, font)
    turned = turned.rotate(90, expand=True)
    sheet.paste(turned, (round(middle - turned.width / 2), bottom - turned.height))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _shortened(name: str, longest: int = _LONGEST) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
