import pytest

from jtl.config import Document, override, read_document
from jtl.errors import ConfigError

TEXT = """\
seed: 1
train:
  phases:
    - epochs: 2
      freeze: backbone
    - epochs: 3
  rate: 1e-3
empty:
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text(TEXT)
    return path


def test_a_file_becomes_values_with_their_lines(recipe):
    document = read_document(recipe)
    assert document.values["train"]["rate"] == 1e-3
    assert document.origin(("train", "phases", 1, "epochs")) == f"{recipe}:6"


def test_a_missing_option_has_the_origin_of_what_is_around_it(recipe):
    document = read_document(recipe)
    assert document.origin(("train", "phases", 0, "clip")) == f"{recipe}:4"
    assert document.origin(("nothing",)) == str(recipe)


def test_values_from_python_have_no_origin():
    assert Document(values={"seed": 1}).origin(("seed",)) is None


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\ufeff"])
def test_an_empty_file_is_an_empty_document(tmp_path, text):
    path = tmp_path / "empty.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_document(path).values == {}


def test_a_missing_file_names_the_nearest_one(recipe):
    with pytest.raises(ConfigError, match=r"no such file; did you mean .*digits\.yaml\?"):
        read_document(recipe.with_name("digit.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "holds a list; give a mapping"),
        (b"hello\n", "holds the single value hello; give a mapping"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"a" * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    path = tmp_path / "other.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_document(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_document(tmp_path)


@pytest.mark.parametrize("key", ["train.phases.1.epochs", "train.phases[1].epochs"])
def test_override_reaches_into_a_list(recipe, key):
    changed = override(read_document(recipe), [f"{key}=7"])
    assert changed.values["train"]["phases"] == [
        {"epochs": 2, "freeze": "backbone"},
        {"epochs": 7},
    ]
    assert changed.origin(("train", "phases", 1, "epochs")) == "--set train.phases[1].epochs"


def test_override_leaves_the_document_as_it_was(recipe):
    document = read_document(recipe)
    override(document, ["train.phases.0.epochs=9", "seed=5"])
    assert document == read_document(recipe)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("[stem, layer1]", ["stem", "layer1"]),
        ("{kind: sgd}", {"kind": "sgd"}),
        ("'3'", "3"),
        ("", None),
        ("a=b", "a=b"),
    ],
)
def test_override_reads_the_value_as_yaml(text, value):
    assert override(Document(values={}), [f"x.y={text}"]).values == {"x": {"y": value}}


def test_override_fills_a_section_that_was_left_empty(recipe):
    assert override(read_document(recipe), ["empty.deep.x=1"]).values["empty"] == {"deep": {"x": 1}}


def test_the_last_override_wins():
    assert override(Document(values={}), ["a=1", "a=2"]).values == {"a": 2}


def test_override_of_a_section_forgets_the_lines_inside_it(recipe):
    changed = override(read_document(recipe), ["train={phases: []}"])
    assert changed.origin(("train", "phases", 0)) == "--set train"
    assert changed.origin(("seed",)) == f"{recipe}:1"


def test_overrides_that_cannot_be_made_are_all_named(recipe):
    assignments = ["seed", "=3", "a..b=3", "train.phases.2.epochs=1", "seed.x=1", "a=[1"]
    with pytest.raises(ConfigError) as caught:
        override(read_document(recipe), assignments)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(assignments)
    assert lines[0] == "--set seed: not of the form key=value; write it like train.epochs=3."
    assert lines[3].endswith("train.phases is a list with entries 0 to 1.")
    assert lines[4].endswith("seed is the single value 1, which has no entries of its own to set.")
    assert lines[5].startswith("--set a: this is not valid YAML")
