import re
from html.parser import HTMLParser

from jtl.report.page import Section, Thumb, Tile, data_url, paragraph, render_page, table, thumbs

EVIL = "<script>alert(1)</script>\"'&"


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def page(**changes):
    body = paragraph(EVIL) + table([EVIL, "n"], [[EVIL, 1], ["a", 0.5]], sortable=True)
    thumb = Thumb(
        image=data_url(b"x", "image/png"), overlay=None, title=EVIL, lines=(EVIL,), alt=EVIL
    )
    body += thumbs([thumb])
    sections = [Section(title="One", body=body)]
    tiles = [Tile(name=EVIL, value=EVIL, detail=EVIL)]
    return render_page(EVIL, EVIL, sections, tiles=tiles, **changes)


def test_names_are_escaped_wherever_they_stand():
    text = page()
    assert EVIL not in text
    assert text.count("<script>") == 1
    assert [tag for tag, _ in Tags(text).found].count("script") == 1


def test_a_page_names_nothing_outside_itself():
    tags = Tags(page()).found
    addresses = [own[name] for _, own in tags for name in ("src", "href", "action") if name in own]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not any("style" in own or any(name.startswith("on") for name in own) for _, own in tags)


def test_the_policy_allows_no_source_but_what_is_in_the_page():
    policy = dict(
        part.split(" ", 1)
        for part in next(
            own["content"]
            for tag, own in Tags(page()).found
            if own.get("http-equiv") == "Content-Security-Policy"
        ).split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    assert all(re.fullmatch(r"'sha256-\S+'", policy[f"{kind}-src"]) for kind in ("style", "script"))


def test_only_a_live_page_reads_itself_again():
    assert 'http-equiv="refresh" content="7"' in page(refresh=7)
    assert 'http-equiv="refresh"' not in page()
