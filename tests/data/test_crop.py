"""Crops at random: functions of (seed, view, example), inside the image and the ranges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.crop import Box, CropOptions, crop_into, draw_box
from jtl.data.decode import Picture, open_picture
from jtl.errors import ConfigError
from tests.data.photos import photo_bytes

sides = st.integers(1, 2000)
numbers = st.integers(0, 2**31 - 1)


@given(numbers, numbers, numbers, sides, sides)
def test_a_box_lies_within_the_image_and_is_drawn_again(seed, view, example, height, width):
    box = draw_box(CropOptions(), seed, view, example, (height, width))
    assert box.top >= 0
    assert box.left >= 0
    assert 1 <= box.height <= height - box.top
    assert 1 <= box.width <= width - box.left
    assert box == draw_box(CropOptions(), seed, view, example, (height, width))


@given(numbers, numbers, numbers)
def test_seed_view_and_example_each_decide(seed, view, example):
    places = {
        draw_box(CropOptions(), *numbers, (3000, 4000))
        for numbers in (
            (seed, view, example),
            (seed + 1, view, example),
            (seed, view + 1, example),
            (seed, view, example + 1),
            (view + 2**31, example, seed),
        )
    }
    assert len({(box.top, box.left, box.height, box.width) for box in places}) == 5


def test_boxes_have_the_areas_and_ratios_that_were_asked_for():
    options = CropOptions(area=(0.2, 0.6), ratio=(0.5, 2.0))
    boxes = [draw_box(options, 0, 0, example, (1000, 1000)) for example in range(2000)]
    areas = np.array([box.height * box.width for box in boxes]) / 1e6
    ratios = np.array([box.width / box.height for box in boxes])
    assert 0.195 < areas.min() < 0.21
    assert 0.55 < areas.max() < 0.605
    assert 0.49 < ratios.min() < 0.53
    assert 1.9 < ratios.max() < 2.04
    assert abs(np.log(ratios).mean()) < 0.05


def test_an_image_that_no_crop_fits_is_cut_in_its_middle():
    box = draw_box(CropOptions(area=(1, 1), ratio=(1, 1)), 0, 0, 0, (10, 500))
    assert box == Box(top=0, left=245, height=10, width=10)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"area": (0.0, 1.0)}, "area="),
        ({"area": (0.9, 0.2)}, "area="),
        ({"area": (0.5, 1.2)}, "area="),
        ({"ratio": (-1.0, 2.0)}, "ratio="),
        ({"ratio": (2.0, 1.0), "area": (2.0, 1.0)}, "area=.*; ratio="),
    ],
)
def test_ranges_that_cannot_be_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        CropOptions(**values)


def test_a_crop_of_the_size_itself_is_those_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = Picture(height=30, width=40, decode=lambda _: pixels)
    out = np.zeros((12, 12, 3), np.uint8)
    crop_into(out, picture, Box(top=7, left=20, height=12, width=12), (0, 0, 0))
    np.testing.assert_array_equal(out, pixels[7:19, 20:32])


def test_transparent_pixels_show_the_background():
    pixels = np.zeros((8, 8, 4), np.uint8)
    out = np.zeros((4, 4, 3), np.uint8)
    picture = Picture(height=8, width=8, decode=lambda _: pixels)
    crop_into(out, picture, Box(top=0, left=0, height=8, width=8), (9, 99, 199))
    np.testing.assert_array_equal(out, np.broadcast_to((9, 99, 199), out.shape))


def test_a_photograph_that_is_decoded_smaller_gives_nearly_the_same_crop():
    picture = open_picture(photo_bytes(1, size=(800, 1200)), "it")
    whole = picture.pixels()
    full = Picture(height=picture.height, width=picture.width, decode=lambda _: whole)
    crops = np.zeros((2, 64, 64, 3), np.uint8)
    box = Box(top=101, left=203, height=600, width=700)
    crop_into(crops[0], picture, box, (0, 0, 0))
    crop_into(crops[1], full, box, (0, 0, 0))
    assert picture.pixels(600 / 64).shape[0] < 800
    difference = np.abs(crops[0].astype(int) - crops[1])
    assert difference.mean() < 1.5
    assert difference.max() <= 12
