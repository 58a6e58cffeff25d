"""A page that needs nothing but itself: no request leaves it, and every name is escaped."""

import base64
import dataclasses
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page with a heading of its own, which the navigation leads to."""

    title: str
    body: Markup

    @property
    def anchor(self) -> str:
        """What an address in the page calls it."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """One headline figure."""

    name: str
    value: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing with its caption; `svg` is trusted, and made by `jtl.report.svg`."""

    svg: Markup
    caption: str
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thumb:
    """A small image, as a data URL, with what is to be said of it."""

    image: str
    overlay: str | None
    title: str
    lines: tuple[str, ...]
    alt: str


def render_page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    tiles: Sequence[Tile] = (),
    refresh: int | None = None,
) -> str:
    """The text of a whole page.

    Args:
        title: of the page.
        lead: one line under it.
        sections: in order.
        tiles: headline figures above them.
        refresh: seconds after which a browser reads the file again; None never does.
    """
    style, script = _source("page.css"), _source("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template("page.html")
    return page.render(
        title=title,
        lead=lead,
        sections=sections,
        tiles=tiles,
        refresh=refresh,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
    )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, sortable: bool = False
) -> Markup:
    """A table; columns of numbers stand to the right.

    Args:
        columns: their names.
        rows: text, whole numbers, floats (four digits after the point), or None for nothing.
        sortable: whether a heading sorts by its column.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    heads = [
        {"name": name, "number": any(row[place]["number"] for row in cells)}
        for place, name in enumerate(columns)
    ]
    return Markup(_parts().table(heads, cells, sortable))


def pictures(*items: Picture | None) -> Markup:
    """Drawings side by side where there is room; None is passed over."""
    return Markup(_parts().figures([item for item in items if item is not None]))


def thumbs(items: Sequence[Thumb]) -> Markup:
    """Small images in rows."""
    return Markup(_parts().thumbs(items))


def paragraph(text: str, *, note: bool = False) -> Markup:
    """A paragraph of plain text; a note is set smaller."""
    start = Markup('<p class="note">') if note else Markup("<p>")
    return start + text + Markup("</p>")


def block(text: str) -> Markup:
    """Text as it stands, such as a command."""
    return Markup('<pre tabindex="0">') + text + Markup("</pre>")


def heading(text: str) -> Markup:
    """A heading within a section."""
    return Markup("<h3>") + text + Markup("</h3>")


def folded(summary: str, body: Markup) -> Markup:
    """What is only shown when it is asked for, and in print."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, body)


def data_url(content: bytes, kind: str) -> str:
    """Bytes as an address that needs no request, such as of `image/png`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _cell(value: Any) -> dict[str, Any]:
    if value is None:
        return {"text": "–", "number": True, "value": -1}
    if isinstance(value, float):
        return {"text": f"{value:.4f}", "number": True, "value": f"{value:.9g}"}
    if isinstance(value, int) and not isinstance(value, bool):
        return {"text": f"{value:,}", "number": True, "value": value}
    return {"text": value, "number": False, "value": None}


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("jtl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _parts() -> Any:
    return _environment().get_template("parts.html").module


@cache
def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    # The very bytes whose digest the policy names: no template's syntax is read in them.
    return environment.loader.get_source(environment, name)[0].strip()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
