"""Decoding: every format and mode gives the pixels that Pillow gives, upright and in 8 bits."""

import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jtl.data.decode import open_picture, over_background, read_image, upright_pixels
from jtl.errors import DataError

RNG = np.random.default_rng(0)
GREY = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = RNG.integers(0, 256, (16, 12, 3), dtype=np.uint8)
# As smooth as a photograph, with sides that are no multiple of a JPEG's blocks.
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize((203, 157))
)
ORIENTATION = 0x0112


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels_of(data, **options):
    return open_picture(data, "the image", **options).pixels()


def by_pillow(data, mode="RGB"):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))


def write(folder, image, name="image.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


def with_orientation(turn):
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return exif


JPEGS = {
    "baseline": encoded(Image.fromarray(SMOOTH), "JPEG"),
    "progressive": encoded(Image.fromarray(SMOOTH), "JPEG", progressive=True),
    "full chroma": encoded(Image.fromarray(SMOOTH), "JPEG", subsampling=0, quality=95),
    "half chroma": encoded(Image.fromarray(SMOOTH), "JPEG", subsampling=1),
    "grey": encoded(Image.fromarray(SMOOTH[..., 0]), "JPEG"),
    "stored as RGB": encoded(Image.fromarray(SMOOTH), "JPEG", keep_rgb=True),
    "CMYK": encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"),
    "restarts": encoded(Image.fromarray(SMOOTH), "JPEG", restart_marker_blocks=3),
    "coarse": encoded(Image.fromarray(SMOOTH), "JPEG", quality=5),
    "one pixel": encoded(Image.fromarray(SMOOTH[:1, :1]), "JPEG"),
}


def as_ycck(cmyk):
    """The same file with an Adobe marker that says its four channels are YCCK."""
    place = cmyk.index(b"Adobe")
    return cmyk[: place + 11] + b"\x02" + cmyk[place + 12 :]


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS.keys())
def test_jpeg_files_give_the_very_pixels_of_pillow(data):
    np.testing.assert_array_equal(pixels_of(data), by_pillow(data))


def test_a_ycck_file_gives_the_very_pixels_of_pillow():
    data = as_ycck(JPEGS["CMYK"])
    assert not np.array_equal(by_pillow(data), by_pillow(JPEGS["CMYK"]))
    np.testing.assert_array_equal(pixels_of(data), by_pillow(data))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_photographs_are_turned_upright(form, options, turn):
    exif = with_orientation(turn)
    data = encoded(Image.fromarray(SMOOTH[:40, :24]), form, exif=exif, **options)
    picture = open_picture(data, "the image")
    expected = by_pillow(data)
    assert (picture.height, picture.width) == expected.shape[:2]
    np.testing.assert_array_equal(picture.pixels(), expected)
    assert (expected.shape[0] == 24) == (turn >= 5)


def test_an_orientation_that_stands_in_xmp_alone_counts():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(Image.fromarray(SMOOTH), "JPEG", xmp=xmp)
    assert pixels_of(data).shape == (203, 157, 3)
    np.testing.assert_array_equal(pixels_of(data), by_pillow(data))


def test_an_orientation_behind_the_pixels_of_a_png_file_counts():
    plain = encoded(Image.fromarray(COLOUR), "PNG")
    notes = with_orientation(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(notes)) + b"eXIf" + notes
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + notes))
    end = plain.index(b"IEND") - 4
    np.testing.assert_array_equal(
        pixels_of(plain[:end] + chunk + plain[end:]), np.rot90(COLOUR, -1)
    )


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_damaged_notes_do_not_spoil_a_photograph(form):
    options = {} if form != "WEBP" else {"lossless": True}
    image = Image.fromarray(COLOUR)
    data = encoded(image, form, exif=with_orientation(6), **options)
    start = data.index(b"MM\0*")
    spoilt = data[:start] + b"M\xff\0*" + data[start + 4 :]
    if form == "PNG":  # else the sum of the chunk alone is wrong
        end = start + struct.unpack(">I", data[start - 8 : start - 4])[0]
        spoilt = (
            spoilt[:end] + struct.pack(">I", zlib.crc32(spoilt[start - 4 : end])) + data[end + 4 :]
        )
    expected = pixels_of(encoded(image, form, **options))
    np.testing.assert_array_equal(pixels_of(spoilt), expected)


def test_an_orientation_that_there_is_not_is_none():
    data = encoded(Image.fromarray(COLOUR), "PNG", exif=with_orientation(9))
    np.testing.assert_array_equal(pixels_of(data), COLOUR)


@pytest.mark.parametrize("name", ["baseline", "progressive", "grey", "full chroma"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_jpeg_file_read_smaller_is_close_to_the_whole_one_resized(name, factor):
    data = JPEGS[name]
    small = open_picture(data, "the image").pixels(factor + 0.5)
    size = (-(-203 // factor), -(-157 // factor))
    assert small.shape[:2] == size[::-1]
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    # Blocks at the border are padded, which an average over what there is does not see.
    reduced = np.asarray(whole.reduce(factor))[:-1, :-1].astype(int)
    gap = np.abs(small[:-1, :-1].astype(int) - reduced)
    assert gap.mean() < 1
    assert gap.max() <= 12
    drafted = Image.open(io.BytesIO(data))
    drafted.draft(None, (203 // factor, 157 // factor))
    assert drafted.size == size
    np.testing.assert_array_equal(small, np.asarray(drafted.convert("RGB")))


def test_a_jpeg_file_read_smaller_is_upright_too():
    data = encoded(Image.fromarray(SMOOTH), "JPEG", exif=with_orientation(6))
    picture = open_picture(data, "the image")
    assert (picture.height, picture.width) == (203, 157)
    assert picture.pixels(2).shape == (102, 79, 3)


@pytest.mark.parametrize("shrink", [0.2, 1, 1.99])
def test_nothing_is_left_out_where_less_than_half_is_enough(shrink):
    small = open_picture(JPEGS["baseline"], "the image").pixels(shrink)
    np.testing.assert_array_equal(small, by_pillow(JPEGS["baseline"]))


def test_rubbish_between_two_markers_is_forgiven_as_by_pillow():
    data = JPEGS["baseline"]
    place = data.index(b"\xff\xc4")
    spoilt = data[:place] + b"rubbish" + data[place:]
    np.testing.assert_array_equal(pixels_of(spoilt), by_pillow(data))


@pytest.mark.parametrize("name", ["baseline", "progressive", "grey", "CMYK"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_truncated_jpeg_file_is_one_error(name, share):
    data = JPEGS[name]
    with pytest.raises(DataError, match="the image is no image that can be read: "):
        pixels_of(data[: int(len(data) * share)])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_any_other_truncated_file_is_one_error(form, share):
    data = encoded(Image.fromarray(SMOOTH), form)
    with pytest.raises(DataError, match="the image is no image that can be read: "):
        pixels_of(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore")  # of what Pillow finds odd in damaged files
def test_no_damage_to_any_file_raises_anything_but_our_own_error():
    rng = np.random.default_rng(1)
    image = Image.fromarray(SMOOTH[:24, :20])
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        whole = np.frombuffer(encoded(image, form, exif=with_orientation(3)), np.uint8)
        for _ in range(150):
            data = whole.copy()
            data[rng.integers(0, min(len(data), 400), 3)] = rng.integers(0, 256, 3)
            try:
                pixels = pixels_of(data.tobytes(), max_pixels=10**6)
            except DataError:
                continue
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] in (3, 4)


def test_grey_files_get_three_equal_channels(tmp_path):
    pixels = read_image(write(tmp_path, Image.fromarray(GREY)))
    np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, -1))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_files_of_16_bits_keep_their_range(form):
    deep = GREY.astype(np.uint16) * 257
    pixels = pixels_of(encoded(Image.fromarray(deep), form))
    np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, -1))


def test_grey_files_of_16_bits_in_the_other_order_of_bytes_keep_their_range():
    deep = Image.frombytes("I;16B", (16, 16), (GREY.astype(">u2") * 257).tobytes())
    pixels = pixels_of(encoded(deep, "TIFF"))
    np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, -1))


def test_levels_of_16_bits_are_rounded_not_cut_off():
    deep = np.array([[0, 128, 129, 65535 - 129, 65535 - 128, 65535]], np.uint16)
    pixels = pixels_of(encoded(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 1, 254, 255, 255])


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height, width, depth, colour_type, rows, *chunks):
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = b"".join([chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows, 9))])
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colour_and_alpha_of_16_bits_become_8(colour_type, channels):
    levels = RNG.integers(0, 256, (5, 7, channels)).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    pixels = pixels_of(png(5, 7, 16, colour_type, rows))
    expected = (levels // 257).astype(np.uint8)
    if channels == 2:
        expected = np.concatenate([np.repeat(expected[..., :1], 3, -1), expected[..., 1:]], -1)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_level_of_grey_that_is_marked_transparent_is(depth):
    levels = (np.arange(9) * 3).reshape(3, 3).astype(">u2" if depth == 16 else np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    pixels = pixels_of(png(3, 3, depth, 0, rows, chunk(b"tRNS", struct.pack(">H", 12))))
    np.testing.assert_array_equal(pixels[..., 3], np.where(levels == 12, 0, 255))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_files_of_32_bits_are_refused(tmp_path, dtype):
    path = write(tmp_path, Image.fromarray(GREY.astype(dtype)), "image.tiff")
    with pytest.raises(DataError, match="whose range is not known; save it with 8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette_files_show_their_colours(form):
    indexed = Image.fromarray(COLOUR).quantize(256, dither=Image.Dither.NONE)
    np.testing.assert_array_equal(
        pixels_of(encoded(indexed, form)), np.asarray(indexed.convert("RGB"))
    )


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})],
)
def test_transparent_files_keep_their_alpha(form, options):
    clear = np.dstack([COLOUR, np.tile(np.uint8([0, 128, 255]), (16, 4))])
    pixels = pixels_of(encoded(Image.fromarray(clear), form, **options))
    np.testing.assert_array_equal(pixels, clear)


def test_grey_files_with_alpha_keep_it():
    clear = np.dstack([GREY, GREY[::-1]])
    pixels = pixels_of(encoded(Image.fromarray(clear), "PNG"))
    np.testing.assert_array_equal(pixels, np.dstack([GREY, GREY, GREY, GREY[::-1]]))


@pytest.mark.parametrize("clear", [5, bytes(range(256))], ids=["one colour", "each colour"])
def test_transparent_palette_files_keep_their_alpha(clear):
    indexed = Image.fromarray(GREY).convert("P")
    pixels = pixels_of(encoded(indexed, "PNG", transparency=clear))
    expected = np.where(GREY == 5, 0, 255) if clear == 5 else GREY
    np.testing.assert_array_equal(pixels[..., 3], expected)
    np.testing.assert_array_equal(pixels[..., 0], GREY)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF", "WEBP"])
def test_bilevel_files_are_black_and_white(form):
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = pixels_of(encoded(Image.fromarray(GREY > 99), form, **options))
    np.testing.assert_array_equal(pixels[..., 0], np.where(GREY > 99, 255, 0))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF"])
def test_colour_files_without_loss_give_their_pixels(form):
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(
        pixels_of(encoded(Image.fromarray(COLOUR), form, **options)), COLOUR
    )


def test_a_webp_file_with_loss_gives_the_very_pixels_of_pillow():
    data = encoded(Image.fromarray(SMOOTH), "WEBP")
    np.testing.assert_array_equal(pixels_of(data), by_pillow(data))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(form):
    frames = [Image.fromarray(np.full((8, 6, 3), level, np.uint8)) for level in (10, 200, 90)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(pixels_of(data), np.full((8, 6, 3), 10))


def test_what_a_file_holds_is_told_by_its_bytes_not_its_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.fromarray(COLOUR), "PNG"))
    np.testing.assert_array_equal(read_image(path), COLOUR)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_an_image_above_the_limit_is_refused_and_below_it_read(form):
    data = encoded(Image.fromarray(SMOOTH), form)
    size = 157 * 203
    with pytest.raises(DataError, match=rf"203×157 pixels, more than data.max_pixels={size - 1}"):
        pixels_of(data, max_pixels=size - 1)
    assert pixels_of(data, max_pixels=size).shape == (157, 203, 3)


def bomb(side):
    """A PNG file of few bytes and very many pixels."""
    return png(side, side, 1, 0, bytes((side + 7) // 8 + 1) * side)


def test_a_bomb_is_refused_before_it_is_decoded():
    import resource

    data = bomb(30_000)
    assert len(data) < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"30000×30000 pixels, more than data\.max_pixels=89478485"):
        pixels_of(data)
    # KiB; decoded, it would take 112 MB as it is and 2.7 GB in colour.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.fixture
def low_pillow_limit(monkeypatch):
    """Pillow's own limit so low that small images are above it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_a_raised_limit_reads_what_pillow_would_refuse_without_a_warning(form, low_pillow_limit):
    data = encoded(Image.fromarray(SMOOTH), form)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels_of(data, max_pixels=157 * 203).shape == (157, 203, 3)


def test_formats_that_are_not_named_are_never_tried():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    for data in (
        postscript,
        encoded(Image.fromarray(GREY), "ICO"),
        encoded(Image.fromarray(GREY), "PPM"),
    ):
        with pytest.raises(DataError, match="it is none of JPEG, PNG, WEBP, BMP, GIF, TIFF"):
            pixels_of(data)


def test_an_empty_file_is_called_empty():
    with pytest.raises(DataError, match="the image is an empty file"):
        pixels_of(b"")


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.png: there is no such image"):
        read_image(tmp_path / "nothing.png")


def test_a_file_that_is_text_is_one_error(tmp_path):
    path = tmp_path / "image\n.webp"
    path.write_text("not an image")
    with pytest.raises(DataError, match=r"image\\n.webp is no image that can be read"):
        read_image(path)


def test_a_folder_or_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg is a FIFO, no file"):
        read_image(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="is a folder, no file"):
        read_image(tmp_path)


def test_threads_decode_the_same(tmp_path):
    files = [*JPEGS.values(), encoded(Image.fromarray(COLOUR), "PNG")] * 4
    results = {}

    def work(place):
        results[place] = pixels_of(files[place])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(files))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, data in enumerate(files):
        np.testing.assert_array_equal(results[place], by_pillow(data))


def test_an_image_of_pillow_is_turned_and_brought_to_8_bits(tmp_path):
    path = write(tmp_path, Image.fromarray(COLOUR), exif=with_orientation(6))
    with Image.open(path) as image:
        np.testing.assert_array_equal(upright_pixels(image, "it"), np.rot90(COLOUR, -1))
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(upright_pixels(deep, "it")[..., 1], GREY)


def test_an_array_is_a_picture_as_it_is():
    picture = open_picture(COLOUR, "it")
    assert (picture.height, picture.width) == (16, 12)
    assert picture.pixels(3) is COLOUR


def test_hidden_colours_under_transparency_do_not_show():
    clear = np.dstack([COLOUR, np.zeros((16, 12), np.uint8)])
    np.testing.assert_array_equal(
        over_background(clear, (9, 80, 255)), np.broadcast_to(np.uint8([9, 80, 255]), COLOUR.shape)
    )
    clear[..., 3] = 255
    np.testing.assert_array_equal(over_background(clear, (9, 80, 255)), COLOUR)
    assert over_background(COLOUR, (0, 0, 0)) is COLOUR


@pytest.mark.parametrize("image", [COLOUR / 255, COLOUR[..., 0], COLOUR[..., :2]])
def test_only_colours_can_be_laid_over_a_background(image):
    with pytest.raises(DataError, match="cannot be prepared"):
        over_background(image, (0, 0, 0))
