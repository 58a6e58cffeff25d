"""Which fonts are used, what is recorded of them, and what is drawn."""

import hashlib
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables.DefaultTable import DefaultTable
from pydantic import TypeAdapter, ValidationError

from jtl.data.fonts import find_fonts
from jtl.data.glyphs import GlyphOptions, render_glyphs
from jtl.errors import DataError

SHIPPED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
OFL = "This Font Software is licensed under the SIL Open Font License, Version 1.1."


def bars(widths):
    """A glyph of upright bars of these widths."""
    pen = TTGlyphPen(None)
    left = 50
    for width in widths:
        pen.moveTo((left, 0))
        pen.lineTo((left, 700))
        pen.lineTo((left + width, 700))
        pen.lineTo((left + width, 0))
        pen.closePath()
        left += width + 100
    return pen.glyph()


def write_font(path, glyphs, family="Test", style="Regular", licence=OFL, names=None):
    """A TTF whose glyph for each character is bars of given widths (`None`: no ink)."""
    names = names or {character: f"uni{ord(character):04X}" for character in glyphs}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *dict.fromkeys(names.values())])
    builder.setupCharacterMap({ord(character): name for character, name in names.items()})
    shapes = {names[character]: bars(widths or ()) for character, widths in glyphs.items()}
    builder.setupGlyf({".notdef": bars([300, 300]), **shapes})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *shapes], (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    strings = {"familyName": family, "styleName": style, "copyright": "Nobody"}
    builder.setupNameTable(strings | ({"licenseDescription": licence} if licence else {}))
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


def found(folder, characters="AB", per_family=4):
    fonts, left_out = find_fonts([folder], characters, per_family)
    return [font.record for font in fonts], {one.file: one.reason for one in left_out}


def reason(folder, characters="AB"):
    """Why the only font of a folder is left out."""
    records, left_out = found(folder, characters)
    assert not records
    (only,) = left_out.values()
    return only


@pytest.fixture(scope="module")
def shipped():
    """The default glyphs of ten digits."""
    return render_glyphs(GlyphOptions(characters="0123456789"))


def test_shipped_fonts_are_used_with_their_licence(shipped):
    families = {font.family for font in shipped.fonts}
    assert {"DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"} <= families
    for font in shipped.fonts:
        content = (SHIPPED / font.file).read_bytes()
        assert font.digest == hashlib.sha256(content).hexdigest()
        assert font.license
        assert font.statement


def test_symbol_and_placeholder_fonts_are_left_out(shipped):
    reasons = {one.file: one.reason for one in shipped.left_out}
    assert "has no 0 1 2" in reasons["STIXSizOneSymReg.ttf"]
    assert "alike" in reasons["LastResortHE-Regular.ttf"]
    assert "draws other things" in reasons["cmsy10.ttf"]
    assert "no free licence" in reasons["cmr10.ttf"]


def test_images_fill_their_box_in_the_middle(shipped):
    images, labels = shipped.images, shipped.labels
    assert images.dtype == np.uint8
    assert images.shape == (10 * len(shipped.fonts), 32, 32, 3)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.tile(np.arange(10), len(shipped.fonts)))
    np.testing.assert_array_equal(np.bincount(shipped.font_index), 10)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    for image in images[..., 0]:
        rows, columns = np.nonzero(image > 64)
        assert rows.min() >= 2
        assert rows.max() <= 29
        assert max(np.ptp(rows), np.ptp(columns)) >= 26
        assert abs(columns.min() + columns.max() - 31) <= 2


def test_drawing_again_gives_the_same_bytes(shipped):
    again = render_glyphs(GlyphOptions(characters="0123456789"))
    np.testing.assert_array_equal(again.images, shipped.images)
    assert again.fonts == shipped.fonts


def test_strokes_grow_and_shrink_the_ink():
    glyphs = render_glyphs(GlyphOptions(characters="HX", strokes=(-1.0, 0.0, 1.5), per_family=1))
    ink = glyphs.images[..., 0].mean(axis=(1, 2)).reshape(-1, 3)
    assert np.all(np.diff(ink, axis=1) > 2)
    np.testing.assert_array_equal(glyphs.labels[:6], [0, 0, 0, 1, 1, 1])


def test_favoured_families_are_drawn_with_their_own_strokes():
    glyphs = render_glyphs(
        GlyphOptions(
            characters="HX", favoured=("sans mono",), favoured_strokes=(0.0, 2.0), per_family=1
        )
    )
    counts = np.bincount(glyphs.font_index)
    for font, count in zip(glyphs.fonts, counts):
        assert count == (4 if "Sans Mono" in font.family else 2)
    assert set(counts) == {2, 4}
    of_mono = glyphs.labels[glyphs.font_index == int(np.argmax(counts))]
    np.testing.assert_array_equal(of_mono, [0, 0, 1, 1])


def test_named_folders_are_searched_deeply_and_the_same_file_counts_once(tmp_path):
    first = write_font(tmp_path / "deep" / "er" / "a.ttf", {"A": [80], "B": [200]})
    shutil.copy(first, tmp_path / "copy.TTF")
    records, _ = found(tmp_path)
    assert len(records) == 1


def test_order_does_not_depend_on_where_the_folders_lie(tmp_path):
    for index, name in enumerate(["c.ttf", "a.ttf", "b.ttf"]):
        write_font(tmp_path / f"{index}" / name, {"A": [80 + index], "B": [200]}, family=name)
    forwards, _ = find_fonts([tmp_path / "0", tmp_path / "1", tmp_path / "2"], "AB", 4)
    backwards, _ = find_fonts([tmp_path / "2", tmp_path / "1", tmp_path / "0"], "AB", 4)
    assert [font.record.file for font in forwards] == ["a.ttf", "b.ttf", "c.ttf"]
    assert forwards == backwards


def test_a_family_gives_at_most_so_many_files(tmp_path):
    for index in range(6):
        write_font(tmp_path / f"{index}.ttf", {"A": [80 + index], "B": [200]})
    records, left_out = found(tmp_path, per_family=2)
    assert [record.file for record in records] == ["0.ttf", "3.ttf"]
    assert set(left_out.values()) == {"enough others of Test"}


def test_record_says_family_style_and_licence(tmp_path):
    path = write_font(tmp_path / "a.ttf", {"A": [80], "B": [200]}, family="Hand", style="Bold")
    (record,), _ = found(tmp_path)
    assert (record.file, record.family, record.style) == ("a.ttf", "Hand", "Bold")
    assert record.license == "OFL-1.1"
    assert record.statement == OFL
    assert record.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("statement", "short"),
    [
        ("Licensed under the Apache License, Version 2.0", "Apache-2.0"),
        (
            "GNU General Public License v3 with the font embedding exception",
            "GPL with font exception",
        ),
        ("Released under the GPL", "GPL"),
        ("Dedicated to the public domain", "public domain"),
        ("GUST Font License", "GFL"),
        ("CC0 1.0 Universal", "CC0-1.0"),
    ],
)
def test_free_licence_is_recognised_in_the_name_table(tmp_path, statement, short):
    write_font(tmp_path / "a.ttf", {"A": [80], "B": [200]}, licence=statement)
    (record,), _ = found(tmp_path)
    assert record.license == short


@pytest.mark.parametrize("statement", [None, "All rights reserved. Free for personal use."])
def test_font_without_a_free_licence_is_left_out(tmp_path, statement):
    write_font(tmp_path / "a.ttf", {"A": [80], "B": [200]}, licence=statement)
    assert "no free licence" in reason(tmp_path)


def test_licence_file_beside_the_font_counts(tmp_path):
    write_font(tmp_path / "hand" / "a.ttf", {"A": [80], "B": [200]}, licence=None)
    (tmp_path / "hand" / "OFL.txt").write_text("SIL OPEN FONT LICENSE Version 1.1")
    (record,), _ = found(tmp_path)
    assert (record.license, record.statement) == ("OFL-1.1", "hand/OFL.txt")


def test_font_that_lacks_a_character_is_left_out(tmp_path):
    write_font(tmp_path / "a.ttf", {"A": [80]})
    assert reason(tmp_path) == "has no B"


def test_font_that_maps_a_character_to_the_missing_glyph_is_left_out(tmp_path):
    path = write_font(tmp_path / "a.ttf", {"A": [80], "B": [200]})
    with TTFont(path) as font:
        for table in font["cmap"].tables:
            table.cmap[ord("B")] = ".notdef"
        font.save(path)
    assert reason(tmp_path) == "has no B"


def test_font_with_a_symbol_at_a_letter_is_left_out(tmp_path):
    write_font(tmp_path / "a.ttf", {"A": [80], "B": [9]}, names={"A": "A", "B": "infinity"})
    assert reason(tmp_path) == "draws other things: infinity for B"


def test_small_faults_of_a_font_are_not_reported_to_the_reader(tmp_path, caplog):
    path = write_font(tmp_path / "a.ttf", {"A": [80], "B": [200]})
    with TTFont(path) as font:
        faulty = DefaultTable("post")
        faulty.data = font["post"].compile(font) + b"\x00"
        font["post"] = faulty
        font.save(path)
    found(tmp_path)
    assert not caplog.records


def test_file_that_is_no_font_is_left_out(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"not a font at all")
    assert reason(tmp_path).startswith("cannot be read")


def drawn(folder, characters):
    """What `render_glyphs` says of the one font in a folder."""
    glyphs = render_glyphs(GlyphOptions(fonts=(str(folder),), characters=characters))
    used = {font.file for font in glyphs.fonts}
    return used, {one.file: one.reason for one in glyphs.left_out}


def test_font_that_draws_nothing_for_a_character_is_left_out(tmp_path):
    write_font(tmp_path / "blank.ttf", {"A": [80], "B": None})
    used, left_out = drawn(tmp_path, "AB")
    assert "blank.ttf" not in used
    assert left_out["blank.ttf"] == "draws nothing for B"


def test_font_without_lower_case_is_left_out(tmp_path):
    write_font(tmp_path / "caps.ttf", {"A": [80], "a": [80]})
    used, left_out = drawn(tmp_path, "Aa")
    assert "caps.ttf" not in used
    assert left_out["caps.ttf"] == "draws several characters alike: Aa"


def test_font_with_one_shape_for_zero_and_o_is_used(tmp_path):
    write_font(tmp_path / "round.ttf", {"0": [80], "O": [80]})
    used, _ = drawn(tmp_path, "0O")
    assert "round.ttf" in used


def test_every_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError) as raised:
        render_glyphs(GlyphOptions(fonts=(str(tmp_path / "x"), str(tmp_path / "y"))))
    assert str(tmp_path / "x") in str(raised.value)
    assert str(tmp_path / "y") in str(raised.value)


def test_no_usable_font_is_an_error_that_says_why():
    with pytest.raises(DataError, match=r"no usable font.*has no"):
        render_glyphs(GlyphOptions(characters="\U0001f9ea\U0001f9eb"))


def test_repeated_character_is_an_error():
    with pytest.raises(DataError, match="characters has A more than once"):
        render_glyphs(GlyphOptions(characters="ABA"))


def test_margin_that_leaves_nothing_is_an_error():
    with pytest.raises(DataError, match="margin=16 leaves nothing of size=32"):
        render_glyphs(GlyphOptions(characters="AB", margin=16))


@pytest.mark.parametrize(("name", "value"), [("size", 4), ("strokes", []), ("characters", "A")])
def test_value_out_of_range_is_refused_by_the_config(name, value):
    with pytest.raises(ValidationError, match=name):
        TypeAdapter(GlyphOptions).validate_python({name: value})
