"""`jtl tune` as people call it: what it prints, and what a mistake costs."""

import pytest

from jtl.cli import main
from tests.study.search.studies import study_of, tune, write_study

MISTAKES = {
    "no space": ("digits --space nowhere.yaml --method grid", "no such file"),
    "no method": ("digits --space space.yaml --method gird", "gird"),
    "metric": ("digits --space space.yaml --method grid --metric val/top1", "never reported"),
    "pruner": ("digits --space space.yaml --method grid --pruner mdian", "none, median"),
    "recipe": ("dgits --space space.yaml --method grid", "Did you mean 'digits'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_two_lines(mistake, tmp_path, monkeypatch, capsys):
    write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    words, said = MISTAKES[mistake]
    with pytest.raises(SystemExit) as end:
        main(["tune", *words.split()])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert said in error
    assert len(error.strip().splitlines()) <= 2
    assert not (tmp_path / "runs").exists()


def test_a_search_ends_with_a_table_both_figures_and_the_next_command(tmp_path):
    write_study(tmp_path)
    said = tune(tmp_path, "--method", "grid", "--trials", "2", "--workdir", "study")
    for part in ("val/accuracy", "95 % interval", "defaults", "and so optimistic",
                 "which nothing was chosen by", "jtl train"):  # fmt: skip
        assert part in said
    assert "\x1b" not in said
    assert (tmp_path / "study" / "report.html").exists()
    assert study_of(tmp_path)["counts"] == {"complete": 2}
