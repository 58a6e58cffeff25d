"""A drawing as text that stands in a page, and takes the page's own ink, dark or light."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jtl.training.files import write_bytes

INK = "#010203"  # stands for the colour of the page's text
PAPER = "#fdfefe"  # and this for that behind it
_FONT = re.compile(r"font: [^;]*?([\d.]+)px [^;]*")  # size and family in one
_NO_BACKGROUND = {"facecolor": "none", "edgecolor": "none"}


def to_svg(figure: Any, name: str) -> Markup:
    """A matplotlib figure as an `svg` element without any inline style.

    Args:
        figure: drawn in `INK` where it shall follow the page.
        name: unique in the page, so that no two drawings share an identifier.
    """
    import matplotlib

    text = io.StringIO()
    # What a drawing is called must not change from one report of a run to the next.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), _any_script():
        figure.savefig(text, format="svg", metadata={"Date": None}, **_NO_BACKGROUND)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    svg = re.sub(r'style="([^"]*)"', lambda found: _attributes(found[1]), svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" aria-hidden="true" ', 1)
    return Markup(svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)"))


def to_png(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure as a picture on white, whole or not at all."""
    picture = io.BytesIO()
    with _any_script():
        figure.savefig(picture, format="png", dpi=110, facecolor="white")
    write_bytes(path, picture.getvalue())


@contextlib.contextmanager
def _any_script() -> Iterator[None]:
    # The font that comes with matplotlib lacks most scripts; browsers have them.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _attributes(style: str) -> str:
    """A style as presentation attributes, which a strict content policy lets pass."""
    pairs = [part.split(":", 1) for part in _FONT.sub(r"font-size: \1px", style).split(";")]
    named = {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}
    named.pop("font-family", None)  # the page's own
    return " ".join(f'{key}="{value}"' for key, value in named.items())
