"""What a config says about data, and the source that comes of it."""

import pytest

from jtl.config import Document, build
from jtl.data.options import DataOptions, load_source
from jtl.errors import ConfigError, DataError


def test_the_default_is_the_handwritten_digits():
    source = load_source(DataOptions())
    assert source.images.shape == (1797, 8, 8, 3)
    assert source.classes == tuple("0123456789")


def test_glyphs_are_rendered_with_their_licences():
    options = build(
        DataOptions,
        Document(
            values={"source": "glyphs", "glyphs": {"characters": "AB", "per_family": 1, "size": 12}}
        ),
    )
    source = load_source(options)
    assert source.images.shape[1:] == (12, 12, 3)
    assert source.classes == ("A", "B")
    licences = source.provenance["fonts by licence"]
    assert licences
    assert all(fonts for fonts in licences.values())


@pytest.mark.parametrize(
    ("name", "said"),
    [("digts", "Did you mean 'digits'"), ("xyzzy", "none of digits, glyphs")],
)
def test_an_unknown_source_names_the_known_and_the_near(name, said):
    with pytest.raises(DataError, match=rf"data.source: '{name}' is no folder.*{said}"):
        load_source(DataOptions(source=name))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_size": 0}, r"batch_size: 0 is not allowed; give an integer of at least 1"),
        ({"split": {"val": 1.0}}, r"split\.val: 1\.0 is not allowed"),
        ({"split": {"shots": 0}}, r"split\.shots: 0 is not allowed"),
        ({"spilt": {}}, "did you mean split"),
    ],
)
def test_options_out_of_range_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        build(DataOptions, Document(values=values))
