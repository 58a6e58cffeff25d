import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.config.dialect import dump, parse
from jtl.errors import ConfigError


def value_of(text):
    values, _ = parse(text, "x.yaml")
    return values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("-.inf", -float("inf")),
        ("12", 12),
        ("+12", 12),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("# nothing but a comment", None),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2026-11-05", "2026-11-05"),
        ("e3", "e3"),
        ("'1e-3'", "1e-3"),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
    ],
)
def test_a_scalar_is_read_by_yaml_1_2(text, value):
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_every_key_and_entry_has_its_line():
    _, lines = parse("a: 1\nb:\n  - x\n  - c: 2\n\n    d: [3,\n      4]\n", "x.yaml")
    assert lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 1): 4,
        ("b", 1, "c"): 4,
        ("b", 1, "d"): 6,
        ("b", 1, "d", 0): 6,
        ("b", 1, "d", 1): 7,
    }


def test_keys_are_text_whatever_they_look_like():
    assert value_of("{1: a, true: b, 1e-3: c}") == {"1": "a", "true": "b", "1e-3": "c"}


def test_repeated_keys_are_all_named_with_both_lines():
    with pytest.raises(ConfigError) as caught:
        parse("a: 1\nb: {c: 1, c: 2}\na: 3\n", "x.yaml")
    first, second = str(caught.value).splitlines()
    assert first.startswith("x.yaml:2: the key 'c' stands in line 2 already")
    assert second.startswith("x.yaml:3: the key 'a' stands in line 1 already")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1,\nc: 2", "x.yaml:3: this is not valid YAML"),
        ("a: 1\n\tb: 2", "x.yaml:2: this is not valid YAML"),
        ("a: 1\n---\nb: 2", "x.yaml:2: this is not valid YAML"),
        ("a: &n [1]\nb: *n", "x.yaml:2: .*aliases"),
        ("a: !!python/name:os.system x", "x.yaml:1: the tag .* is not read here"),
        ("a: 1\nb: !thing {c: 1}", "x.yaml:2: the tag '!thing' is not read here"),
        ("a: !!binary aGk=", "x.yaml:1: the tag"),
        ("? [a, b]\n: 1", "x.yaml:1: a key must be a single name"),
        ("a: !!int three", "x.yaml:1: 'three' cannot be read as int"),
        ("a: " + "9" * 5000, "x.yaml:1: '9999.*cannot be read as int"),
        ("a: \x00", "x.yaml: this is not readable as YAML"),
        ("[" * 3000, "x.yaml: nested too deep"),
    ],
)
def test_unreadable_text_is_refused_with_its_line(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text, "x.yaml")


def test_nested_aliases_do_not_expand():
    bomb = "a: &a [x, x]\n" + "".join(
        f"{after}: &{after} [*{before}, *{before}]\n"
        for before, after in zip("abcdefgh", "bcdefghi")
    )
    with pytest.raises(ConfigError, match=r"x\.yaml:2: .*aliases"):
        parse(bomb, "x.yaml")


def test_short_lists_stand_in_one_line_and_mappings_do_not():
    values = {"betas": [0.9, 0.999], "phases": [{"epochs": 1}], "empty": []}
    assert dump(values) == "betas: [0.9, 0.999]\nphases:\n- epochs: 1\nempty: []\n"


def test_text_that_looks_like_another_type_is_quoted():
    for text in ("1e-3", "no", "0o17", "2026-11-05", "null", "", "1:30"):
        assert dump({"a": text}) != f"a: {text}\n"


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\ufeff", "a\r\nb", "two\nlines", "\t"])
def test_line_separators_and_control_characters_survive(text):
    assert value_of(dump({text: text})) == {text: text}


scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
trees = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(trees)
def test_what_is_written_reads_back_the_same(tree):
    assert value_of(dump(tree)) == tree


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        dump(parse(text, "x.yaml"))
