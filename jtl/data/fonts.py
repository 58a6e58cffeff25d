"""Which font files may be drawn from: those with a free licence and every character asked for."""

import contextlib
import dataclasses
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fontTools import agl
from fontTools.ttLib import TTFont, TTLibError

from jtl.errors import DataError

# Tried in this order: a statement may name a second licence further on.
_LICENCES = {
    "OFL-1.1": r"SIL.Open.Font|\bOFL\b|openfontlicense",
    "Apache-2.0": r"Apache License|licenses/LICENSE-2\.0|\bApache-2",
    "Bitstream-Vera": r"Bitstream Vera|DejaVu changes are in public domain",
    "Ubuntu-font-1.0": r"Ubuntu Font Licence",
    "CC0-1.0": r"\bCC0\b|publicdomain/zero",
    "GFL": r"GUST Font Licen[sc]e",
    "LPPL": r"LaTeX Project Public|\bLPPL\b",
    "AGPL with font exception": r"(?:\bAGPL|Affero)[\s\S]*exception",
    "GPL with font exception": r"(?:\bGPL|GNU General Public)[\s\S]*exception",
    "GPL": r"\b[AL]?GPL|GNU (?:Lesser |Affero )?General Public",
    "BSD": r"\bBSD-\d|Redistribution and use in source and binary forms",
    "MIT": r"\bMIT\b|\bExpat\b",
    "public domain": r"public[ -]domain",
}
_TWINS = (set("0O"), set("1Il"))
_BESIDE = ("LICENSE", "LICENSE.txt", "LICENCE.txt", "OFL.txt", "COPYING")
# Where Debian's packages keep the list of their files, and each its licence.
_PACKAGE_LISTS = Path("/var/lib/dpkg/info")
_PACKAGE_DOCUMENTS = Path("/usr/share/doc")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FontRecord:
    """One font that was used, and by what right.

    Attributes:
        file: the file's name, without its folder.
        family: name table entry 1.
        style: name table entry 2.
        license: the licence's short name.
        statement: what was recognised: the name table's words (entry 13), or the file that says so.
        license_url: name table entry 14, empty where the font gives none.
        digest: SHA-256 of the file, as hex.
    """

    file: str
    family: str
    style: str
    license: str
    statement: str
    license_url: str
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Font:
    """A usable font: where it lies, and what is recorded of it."""

    path: Path
    record: FontRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A font file that is not used, and why."""

    file: str
    reason: str


def find_fonts(
    folders: Sequence[Path], characters: str, per_family: int
) -> tuple[tuple[Font, ...], tuple[LeftOut, ...]]:
    """The usable fonts under some folders, and the files left out.

    The order depends on names and contents alone, not on where the folders lie; a file that is
    there twice counts once.

    Args:
        folders: folders that are searched with all below them, or single font files.
        characters: what each font must have a glyph for.
        per_family: at most this many files of one family, spread over its styles.

    Raises:
        DataError: a folder does not exist.
    """
    usable, left_out = [], []
    for digest, path in _font_files(folders).items():
        font = _inspect(path, digest, characters)
        if isinstance(font, Font):
            usable.append(font)
        else:
            left_out.append(font)
    return _spread(usable, per_family, left_out), tuple(left_out)


def alike_problem(groups: Iterable[str]) -> str | None:
    """Why a font that draws the characters of each group alike does not serve, or None.

    Zero and O, or one, I and l, are one shape in many fonts; others are alike only where a font
    has no lower case or draws placeholders.
    """
    odd = [
        group for group in groups if len(group) > 1 and not any(map(set(group).issubset, _TWINS))
    ]
    return f"draws several characters alike: {', '.join(odd[:3])}" if odd else None


def _font_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Each distinct font file under its digest, sorted by name and digest."""
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        raise DataError(
            f"no such font folder: {', '.join(missing)}; name folders of .ttf or .otf files "
            "(Debian's packages install theirs below /usr/share/fonts)."
        )
    paths = [
        path
        for folder in folders
        for path in ([folder] if folder.is_file() else folder.rglob("*"))
        if path.suffix.lower() in (".ttf", ".otf")
    ]
    named = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(paths)}
    return dict(sorted(named.items(), key=lambda item: (item[1].name, item[0])))


def _inspect(path: Path, digest: str, characters: str) -> Font | LeftOut:
    try:
        with _quietly(), TTFont(path, lazy=True) as font:
            problem = _coverage_problem(font.getBestCmap() or {}, characters)
            names = {
                number: font["name"].getDebugName(number) or "" for number in (0, 1, 2, 13, 14)
            }
    except (TTLibError, KeyError, ValueError, AssertionError) as error:
        return LeftOut(file=path.name, reason=f"cannot be read: {error}")
    if problem:
        return LeftOut(file=path.name, reason=problem)
    licence = _licence(path, names)
    if licence is None:
        return LeftOut(file=path.name, reason="states no free licence that is known here")
    record = FontRecord(
        file=path.name,
        family=names[1],
        style=names[2],
        license=licence[0],
        statement=licence[1],
        license_url=names[14],
        digest=digest,
    )
    return Font(path=path, record=record)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without fontTools' warnings of small faults, which nobody who draws letters can act on."""
    logger = logging.getLogger("fontTools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _coverage_problem(cmap: dict[int, str], characters: str) -> str | None:
    """Why a font's character map does not serve, or None."""
    glyphs = {character: cmap.get(ord(character), ".notdef") for character in characters}
    missing = [character for character, glyph in glyphs.items() if glyph == ".notdef"]
    if missing:
        return f"has no {' '.join(missing[:8])}{' …' if len(missing) > 8 else ''}"
    # A glyph's own name gives away a symbol that sits at a letter's place.
    strangers = [
        f"{glyph} for {character}"
        for character, glyph in glyphs.items()
        if (meant := agl.toUnicode(glyph)) and meant.casefold() != character.casefold()
    ]
    if strangers:
        return f"draws other things: {', '.join(strangers[:3])}"
    alike: dict[str, str] = {}
    for character, glyph in glyphs.items():
        alike[glyph] = alike.get(glyph, "") + character
    return alike_problem(alike.values())


def _licence(path: Path, names: dict[int, str]) -> tuple[str, str] | None:
    """The short name of a free licence and where it stands, or None."""
    for statement in (names[13], names[14], names[0]):
        if short := _recognise(statement):
            return short, " ".join(statement.split())[:200]
    documents = [path.parent / name for name in _BESIDE] + _package_documents(path)
    for document in documents:
        if document.is_file() and (short := _recognise(_font_part(document))):
            return short, f"{document.parent.name}/{document.name}"
    return None


def _recognise(text: str) -> str | None:
    for short, pattern in _LICENCES.items():
        if re.search(pattern, text, re.IGNORECASE):
            return short
    return None


def _package_documents(path: Path) -> list[Path]:
    """The copyright file of the Debian package that installed a font."""
    if not path.is_relative_to("/usr/share/fonts") or not _PACKAGE_LISTS.is_dir():
        return []
    owners = [
        listing.name.removesuffix(".list").partition(":")[0]
        for listing in sorted(_PACKAGE_LISTS.glob("fonts-*.list"))
        if f"{path}\n" in listing.read_text()
    ]
    return [_PACKAGE_DOCUMENTS / owner / "copyright" for owner in owners]


def _font_part(document: Path) -> str:
    """A licence file's text; of a Debian copyright file, what it says of the work itself.

    The packaging's own licence, which stands in the same file, says nothing about the font.
    """
    text = document.read_text(encoding="utf-8", errors="replace")
    stanza = re.search(r"^Files: *\*(?:\.[to]tf)?\n(?:.*\n)*?License: *(.*)", text, re.MULTILINE)
    return stanza.group(1) if stanza else text


def _spread(usable: list[Font], per_family: int, left_out: list[LeftOut]) -> tuple[Font, ...]:
    """At most `per_family` fonts of each family, evenly over its files; the rest is left out."""
    families: dict[str, list[Font]] = {}
    for font in usable:
        families.setdefault(font.record.family, []).append(font)
    chosen = set()
    for fonts in families.values():
        count = min(per_family, len(fonts))
        chosen |= {fonts[index * len(fonts) // count].record.digest for index in range(count)}
    left_out += [
        LeftOut(file=font.record.file, reason=f"enough others of {font.record.family}")
        for font in usable
        if font.record.digest not in chosen
    ]
    return tuple(font for font in usable if font.record.digest in chosen)
