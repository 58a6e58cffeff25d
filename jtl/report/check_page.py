"""The page of a check: what was found, worst first, with thumbnails."""

import io

from markupsafe import Markup
from PIL import Image

from jtl.data.decode import open_picture, over_background
from jtl.data.sources.protocol import Source
from jtl.errors import DataError
from jtl.report.page import (
    Section,
    Thumb,
    Tile,
    data_url,
    paragraph,
    render_page,
    table,
    thumbs,
)
from jtl.study.check.findings import KINDS, CheckResult, Finding

_SIDE = 144  # pixels of a thumbnail at most
_FINDINGS = 24  # of a kind that have thumbnails
_OF_EACH = 3  # images of one finding
_TOLD = 200  # of a kind that are told at all
_NONE = data_url(
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M2 2l5 5M7 2l-5 5" '
    b'stroke="#888"/></svg>',
    "image/svg+xml",
)
_WHITE = (255, 255, 255)


def check_page(result: CheckResult, source: Source, max_pixels: int) -> str:
    """The text of a page that needs nothing but itself.

    Args:
        result: of the check.
        source: what was checked.
        max_pixels: of an image; more are not drawn.
    """
    rows = [
        (KINDS[kind].title, KINDS[kind].severity, count) for kind, count in result.counts.items()
    ]
    summary = table(("found", "severity", "findings"), rows) if rows else paragraph("Nothing.")
    notes = Markup("").join(paragraph(note, note=True) for note in result.notes)
    sections = [Section(title="Summary", body=summary + notes)]
    sections += [_section(kind, result, source, max_pixels) for kind in result.counts]
    classes = table(("class", "readable images"), list(result.classes.items()), sortable=True)
    sections.append(Section(title="Classes", body=classes))
    tiles = [
        Tile(name="images", value=f"{len(result.names):,}"),
        Tile(name="findings", value=f"{len(result.findings):,}"),
        Tile(name="left out by data.exclude", value=f"{result.dropped:,}"),
    ]
    lead = f"{result.data}, labels judged by {result.features}"
    return render_page("What spoils this dataset", lead, sections, tiles)


def _section(kind: str, result: CheckResult, source: Source, max_pixels: int) -> Section:
    own = [finding for finding in result.findings if finding.kind == kind]
    drawn = [
        thumb
        for finding in own[:_FINDINGS]
        for thumb in _thumbs(finding, result, source, max_pixels)
    ]
    body = thumbs(drawn) if drawn else Markup("")
    told = own[:_TOLD] if not drawn else own[_FINDINGS:_TOLD]
    if told:
        body += table(("finding", "score"), [(each.message, each.score) for each in told])
    if len(own) > _TOLD:
        body += paragraph(f"{len(own) - _TOLD} more stand in the JSON file.", note=True)
    return Section(title=KINDS[kind].title.capitalize(), body=body)


def _thumbs(finding: Finding, result: CheckResult, source: Source, max_pixels: int) -> list[Thumb]:
    return [
        Thumb(
            image=_image(source, example, max_pixels),
            overlay=None,
            title=f"{finding.score:.3f}" if place == 0 else "the same as before it",
            # The message names the first image, and the others by themselves.
            lines=(finding.message if place == 0 else result.names[example],),
            alt=result.names[example],
        )
        for place, example in enumerate(finding.examples[:_OF_EACH])
    ]


def _image(source: Source, example: int, max_pixels: int) -> str:
    try:
        picture = open_picture(source[example], source.name(example), max_pixels)
        shrink = min(picture.height, picture.width) / _SIDE
        pixels = over_background(picture.pixels(shrink), _WHITE)
    except DataError:
        return _NONE
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return data_url(content.getvalue(), "image/jpeg")
