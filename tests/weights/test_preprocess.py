import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.errors import ConfigError, DataError, WeightsError
from jtl.weights.preprocess import (
    CAFFE,
    SYMMETRIC,
    Preprocess,
    preprocess_from_timm,
    released_preprocess,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 300, 260, 3), dtype=np.uint8)


def small(**fields):
    return Preprocess(input_size=16, resize=20, **fields)


def test_normalize_computes_torchvision_values_from_pixels():
    values = Preprocess().normalize(IMAGES)
    expected = (IMAGES / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_normalize_gives_bgr_less_the_mean_in_caffe_mode():
    values = Preprocess(**CAFFE).normalize(IMAGES)
    blue = IMAGES[..., 2] - np.float32(103.939)
    np.testing.assert_allclose(values[..., 0], blue, atol=1e-5)


def test_normalize_spans_minus_one_to_one_in_symmetric_mode():
    ends = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    np.testing.assert_allclose(Preprocess(**SYMMETRIC).normalize(ends), [[-1] * 3, [1] * 3])


@pytest.mark.parametrize("record", [Preprocess(), Preprocess(**CAFFE)])
def test_normalize_gives_the_same_values_under_jit(record):
    images = jnp.asarray(IMAGES[:, :8, :8])
    values = jax.jit(record.normalize)(images)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, record.normalize(IMAGES[:, :8, :8]), rtol=1e-5, atol=1e-6)


def test_normalize_keeps_float64_when_given_float64(x64):
    pixels = IMAGES[:, :8, :8].astype(np.float64)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for values in (Preprocess().normalize(pixels), Preprocess().normalize(jnp.asarray(pixels))):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected, rtol=1e-13, atol=1e-13)


def test_normalize_refuses_images_without_three_channels():
    with pytest.raises(DataError, match=r"\[2, 8, 8, 1\].*3 channels"):
        Preprocess().normalize(np.zeros((2, 8, 8, 1), np.uint8))


def test_call_leaves_pixels_alone_when_images_are_at_size():
    images = IMAGES[:, :224, :224]
    np.testing.assert_array_equal(Preprocess()(images), Preprocess().normalize(images))


def test_call_cuts_the_centre_when_the_shorter_side_is_at_resize_already():
    images = np.random.default_rng(1).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
    record = small()
    np.testing.assert_array_equal(record(images), record.normalize(images[:, 2:18, 7:23]))


def test_call_resizes_the_shorter_side_and_keeps_the_aspect_ratio():
    # A left half of black and a right half of white: the edge stays in the middle of the crop.
    images = np.zeros((1, 40, 120, 3), np.uint8)
    images[:, :, 60:] = 255
    fitted = small().resize_and_crop(images[0])
    assert fitted.shape == (16, 16, 3)
    assert fitted[:, :7].max() == 0
    assert fitted[:, 9:].min() == 255


def test_squash_shows_the_whole_image_when_the_crop_would_not():
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, :20] = 255
    assert small(fit="squash").resize_and_crop(image)[8, 1].min() == 255
    assert small().resize_and_crop(image).max() == 0


def test_resize_differs_between_filters():
    shrunk = {
        name: small(interpolation=name).resize_and_crop(IMAGES[0]).tobytes()
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    assert len(set(shrunk.values())) == 4


def test_transparent_pixels_take_the_background():
    images = np.zeros((1, 16, 16, 4), np.uint8)
    images[:, :8, :, 3] = 255
    record = small(background=(10, 20, 30))
    pixels = record.resize_and_crop(images[0])
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[15, 0].tolist() == [10, 20, 30]
    np.testing.assert_array_equal(record(images)[0], record.normalize(pixels))


def test_call_gives_an_empty_batch_for_no_images():
    assert small()(np.zeros((0, 50, 40, 3), np.uint8)).shape == (0, 16, 16, 3)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)]
)
def test_call_refuses_what_is_no_batch_of_uint8(images):
    with pytest.raises(DataError, match=r"give uint8 images \[batch, height, width, 3\]"):
        Preprocess()(images)


def test_call_refuses_grey_images():
    with pytest.raises(DataError, match=r"uint8\[8, 8, 1\]"):
        small()(np.zeros((2, 8, 8, 1), np.uint8))


@given(
    scale=st.floats(1e-6, 10),
    mean=st.tuples(*[st.floats(-300, 300)] * 3),
    size=st.integers(1, 600),
    channels=st.sampled_from(["RGB", "BGR"]),
)
def test_record_is_the_same_after_json(scale, mean, size, channels):
    record = Preprocess(scale=scale, mean=mean, input_size=size, resize=size, channels=channels)
    assert Preprocess.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_every_field_is_in_the_dict():
    names = {field.name for field in dataclasses.fields(Preprocess)}
    assert set(Preprocess().to_dict()) == names


def test_from_dict_names_the_nearest_entry_when_one_is_unknown():
    with pytest.raises(WeightsError, match=r"\['chanels'\] \(did you mean channels\?\)"):
        Preprocess.from_dict({"chanels": "RGB"})


def test_from_dict_lists_every_bad_value_at_once():
    with pytest.raises(WeightsError) as caught:
        Preprocess.from_dict(
            {"std": [0, 1, 1], "scale": "1", "channels": "GRB", "input_size": 0, "mean": [1, 2]}
        )
    for part in ("std=", "scale=", "channels='GRB'", "input_size=0", "mean=(1, 2)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": 100},
        {"background": (0, 0, 256)},
        {"background": 5},
        {"input_size": True},
        {"mean": (float("nan"), 0, 0)},
        {"fit": "stretch"},
    ],
)
def test_record_refuses_values_that_no_image_fits(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Preprocess(**fields)


@pytest.mark.parametrize(
    ("layout", "architecture", "size", "expected"),
    [
        ("torchvision", "resnet50", 224, Preprocess()),
        ("keras", "resnet50", 224, Preprocess(**CAFFE)),
        ("keras", "vgg16", 224, Preprocess(**CAFFE)),
        ("keras", "resnet50v2", 224, Preprocess(**SYMMETRIC)),
        ("keras", "inception_v3", 299, Preprocess(**SYMMETRIC, input_size=299, resize=342)),
        ("torchvision", "inception_v3", 299, Preprocess(**SYMMETRIC, input_size=299, resize=342)),
        ("timm", "vgg16", 224, Preprocess(interpolation="bicubic")),
        ("jtl", "resnet_mini", 32, Preprocess(input_size=32, resize=37, fit="squash")),
    ],
)
def test_released_preprocess_follows_the_source(layout, architecture, size, expected):
    assert released_preprocess(layout, architecture, size) == expected


def test_timm_config_decides_size_crop_and_filter():
    config = {
        "architecture": "resnet50",
        "pretrained_cfg": {
            "input_size": [3, 288, 288],
            "crop_pct": 0.95,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
    }
    assert preprocess_from_timm(config) == Preprocess(
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        input_size=288,
        resize=303,
        interpolation="bicubic",
    )


@pytest.mark.parametrize("config", [{}, {"pretrained_cfg": []}, {"input_size": 3, "mean": 1}])
def test_timm_config_without_its_entries_is_refused(config):
    with pytest.raises(WeightsError, match="pretrained_cfg"):
        preprocess_from_timm(config)


@pytest.mark.parametrize(
    "record", [Preprocess(), Preprocess(**CAFFE), Preprocess(**SYMMETRIC)], ids=["rgb", "bgr", "±1"]
)
def test_restore_undoes_normalize(record):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(record.restore(record.normalize(images)), images)
