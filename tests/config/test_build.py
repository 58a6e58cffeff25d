import dataclasses
import math
from pathlib import Path

import pytest

from jtl.config import Document, build, override, read_document, to_dict
from jtl.errors import ConfigError
from tests.config.options import Adamw, Phase, Sgd, Train, Whole


def problems(values, cls=Whole):
    with pytest.raises(ConfigError) as caught:
        build(cls, Document(values=values))
    return str(caught.value).splitlines()


def problem(values, cls=Whole):
    (line,) = problems(values, cls)
    return line


def test_an_empty_document_gives_the_defaults():
    assert build(Whole, Document(values={})) == Whole()


def test_values_become_the_declared_types():
    values = {
        "seed": 10**20,
        "class_weights": {"3": 2},
        "folder": "a/b",
        "train": {
            "phases": [{"epochs": 2, "freeze": ["stem", "layer1"]}, {"epochs": 1, "clip": 1}],
            "optimizer": {"kind": "adamw", "betas": [0.8, 1]},
        },
    }
    whole = build(Whole, Document(values=values))
    assert whole.train.phases == (
        Phase(epochs=2, freeze=("stem", "layer1")),
        Phase(epochs=1, clip=1.0),
    )
    assert whole.train.optimizer == Adamw(betas=(0.8, 1.0))
    assert whole.class_weights == {3: 2.0}
    assert whole.seed == 10**20


def test_an_integer_for_a_number_becomes_a_float_in_defaults_too():
    whole = build(Whole, Document(values={"train": {"optimizer": {"kind": "adamw"}}}))
    assert type(whole.train.optimizer.rate) is float


def test_a_default_out_of_range_is_reported():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wrong:
        phase: Phase = Phase(epochs=0)

    assert "phase.epochs: 0 is not allowed" in problem({}, Wrong)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"seed": "3"}, "seed: '3' is not allowed; give an integer"),
        ({"seed": 3.0}, "seed: 3.0 is not allowed; give an integer"),
        ({"seed": True}, "seed: true is not allowed; give an integer"),
        ({"seed": None}, "seed: null is not allowed; give an integer"),
        ({"name": 3}, "name: 3 is not allowed; give text"),
        ({"folder": 3}, "folder: 3 is not allowed; give a path"),
        ({"mean": []}, "mean: [] is not allowed; give a list of at least 1 entries "
         "and at most 3 entries, each entry a number"),
        ({"mean": [math.inf]}, "mean[0]: inf is not allowed; give a finite number"),
        ({"schedule": -1}, "schedule: -1 is not allowed; give a number greater than 0"),
        (
            {"schedule": "atuo"},
            "schedule: 'atuo' is not allowed; give a number greater than 0 or 'auto' or null",
        ),
        (
            {"precision": "fp16"},
            "precision: 'fp16' is not allowed; give 'float32', 'bfloat16' or 'float16'",
        ),
        ({"class_weights": {"a": 1}}, "class_weights: the key 'a' is not allowed; give an integer"),
        (
            {"class_weights": [1]},
            "class_weights: [1] is not allowed; give a mapping, each value a number",
        ),
        ({"train": {"shuffle": 1}}, "train.shuffle: 1 is not allowed; give true or false"),
        (
            {"train": {"optimizer": {"kind": "sgd", "momentum": 1}}},
            "train.optimizer.momentum: 1 is not allowed; "
            "give a number of at least 0 and less than 1",
        ),
        (
            {"train": {"optimizer": {"kind": "adamw", "betas": [0.9]}}},
            "train.optimizer.betas: [0.9] is not allowed; "
            "give a list of 2 entries (a number, a number)",
        ),
        (
            {"train": {"optimizer": 3}},
            "train.optimizer: 3 is not allowed; give a mapping with keys among "
            "(kind, rate, momentum) or a mapping with keys among (kind, rate, betas)",
        ),
        (
            {"train": {"tagged": {"kind": "adam"}}},
            "train.tagged.kind: 'adam' is not allowed; give 'sgd' or 'adamw'",
        ),
        ({"train": {"tagged": {}}}, "train.tagged.kind: missing; give 'sgd' or 'adamw'"),
        (
            {"train": {"tagged": {"kind": "adamw", "rate": -1}}},
            "train.tagged.rate: -1 is not allowed; give a number greater than 0",
        ),
        (
            {"train": {"phases": [{}]}},
            "train.phases[0].epochs: missing; give an integer of at least 1",
        ),
        (
            {"train": {"phases": {"0": {"epochs": 1}}}},
            "train.phases: {'0': {'epochs': 1}} is not allowed; give a list, "
            "each entry a mapping with keys among (epochs, freeze, clip, limit)",
        ),
        (
            {"train": {"phases": [{"epochs": 1, "freeze": ["stem", 3]}]}},
            "train.phases[0].freeze[1]: 3 is not allowed; give text",
        ),
        (
            {"train": {"phases": [{"epochs": 1, "freeze": 3}]}},
            "train.phases[0].freeze: 3 is not allowed; give text or a list, each entry text",
        ),
        (
            {"train": {"phases": [{"epochs": 1, "clip": 2}]}},
            "train.phases[0]: clip must not exceed epochs",
        ),
        (
            {"train": None},
            "train: null is not allowed; give a mapping with keys among "
            "(phases, optimizer, tagged, batch_size, shuffle)",
        ),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed_says_what_is(values, line):
    assert problem(values) == line


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"sed": 1}, "sed: there is no such option; did you mean seed?"),
        (
            {"train": {"batchsize": 1}},
            "train.batchsize: there is no such option; did you mean train.batch_size?",
        ),
        (
            {"train": {"optimizer": {"kind": "sgd", "momentun": 0.5}}},
            "train.optimizer.momentun: there is no such option; "
            "did you mean train.optimizer.momentum?",
        ),
        (
            {"batch_size": 1},
            "batch_size: there is no such option here; did you mean train.batch_size?",
        ),
        (
            {"freeze": "stem"},
            "freeze: there is no such option here; did you mean train.phases[0].freeze?",
        ),
        (
            {"train": {"momentum": 0.5}},
            "train.momentum: there is no such option here; "
            "did you mean train.optimizer.momentum or train.tagged.momentum?",
        ),
        (
            {"zzz": 1},
            "zzz: there is no such option; there are "
            "train, seed, name, precision, folder, class_weights, mean, schedule",
        ),
    ],
)
def test_an_unknown_option_names_the_nearest_one(values, hint):
    assert problem(values) == hint


def test_infinity_is_taken_where_it_is_allowed():
    values = {"train": {"phases": [{"epochs": 1, "limit": math.inf}]}}
    assert build(Whole, Document(values=values)).train.phases[0].limit == math.inf


def test_every_problem_is_named_at_once_in_the_order_of_the_options():
    found = problems({"sed": 1, "seed": "x", "train": {"shuffle": 3, "phases": [{}, {"epoch": 1}]}})
    assert [line.split(":")[0] for line in found] == [
        "train.phases[0].epochs",
        "train.phases[1].epochs",
        "train.phases[1].epoch",
        "train.shuffle",
        "seed",
        "sed",
    ]


def test_a_problem_names_the_line_or_the_override(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text("train:\n  phases:\n    - epochs: 0\n  sedd: 1\n")
    document = override(read_document(path), ["train.optimizer.rate=-1", "name=3"])
    with pytest.raises(ConfigError) as caught:
        build(Whole, document)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(f"give an integer of at least 1 ({path}:3)")
    assert lines[1].endswith("give a number greater than 0 (--set train.optimizer.rate)")
    assert lines[2].endswith(f"({path}:4)")
    assert lines[3] == "name: 3 is not allowed; give text (--set name)"


def test_a_problem_of_the_whole_names_the_file(tmp_path):
    path = tmp_path / "phase.yaml"
    path.write_text("epochs: 1\nclip: 3\n")
    with pytest.raises(ConfigError) as caught:
        build(Phase, read_document(path))
    assert str(caught.value) == f"{path}: clip must not exceed epochs"


def test_a_class_that_raises_config_errors_itself_names_the_file(tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Range:
        low: float = 0.0
        high: float = 1.0

        def __post_init__(self):
            if self.low > self.high:
                raise ConfigError("low is above high.")

    path = tmp_path / "range.yaml"
    path.write_text("low: 3\n")
    with pytest.raises(ConfigError, match=r"range\.yaml.*: low is above high"):
        build(Range, read_document(path))


def test_values_from_python_may_be_paths_tuples_and_options():
    values = {"folder": Path("a") / "b", "mean": (0.5,), "train": Train(batch_size=3)}
    assert build(Whole, Document(values=values)) == Whole(
        folder=Path("a/b"), train=Train(batch_size=3)
    )


def test_a_value_that_no_file_can_hold_is_refused():
    with pytest.raises(ConfigError, match="is complex, which no configuration file can hold"):
        build(Whole, Document(values={"seed": 1j}))


def test_text_that_is_no_unicode_is_refused(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text('name: "\\ud800"\n')
    with pytest.raises(ConfigError, match=r"broken\.yaml: holds text that is not valid Unicode"):
        build(Whole, read_document(path))


def test_a_long_value_is_cut_in_the_message():
    assert len(problem({"seed": "x" * 5000})) < 120


def test_an_alternative_is_chosen_by_its_kind():
    values = {"optimizer": {"kind": "adamw", "rate": 0.5}}
    assert build(Train, Document(values=values)).optimizer == Adamw(rate=0.5)
    assert build(Train, Document(values={"optimizer": {"rate": 0.5}})).optimizer == Sgd(rate=0.5)


def test_to_dict_refuses_an_instance_made_wrong():
    with pytest.raises(ConfigError, match=r"phases\[0\]\.epochs: -1 is not allowed"):
        to_dict(Train(phases=(Phase(epochs=-1),)))


def test_to_dict_keeps_the_order_of_the_fields():
    values = to_dict(Whole())
    assert list(values) == [field.name for field in dataclasses.fields(Whole)]
    assert values["train"]["phases"] == [
        {"epochs": 1, "freeze": "backbone", "clip": None, "limit": 0.0}
    ]
