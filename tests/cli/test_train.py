"""What a user may get wrong with `jtl train`: one or two lines, and exit status 2."""

import pytest

from jtl.cli import main

MISTAKES = {
    "recipe": (["dgits"], "Did you mean 'digits'"),
    "key": (["digits", "--set", "data.batchsize=3"], "did you mean data.batch_size"),
    "rate": (["digits", "--set", "train.phases.0.schedule.rate=-1"], "greater than 0"),
    "devices": (["digits", "--set", "data.batch_size=12"], "does not divide over 8 devices"),
    "freeze": (["digits", "--set", "train.phases.0.freeze=layr"], "matches no parameter"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_two_lines(mistake, tmp_path, capsys):
    words, said = MISTAKES[mistake]
    with pytest.raises(SystemExit) as end:
        main(["train", *words, "--workdir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert said in error
    assert len(error.strip().splitlines()) <= 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_of_something_else_is_left_alone(resume, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["train", "digits", "--workdir", str(tmp_path), *resume])
    assert end.value.code == 2
    assert "is no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_run_that_would_be_gone_at_the_end_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "digits", "--workdir", "memory://runs/digits"])
    assert end.value.code == 2
    assert "gone at its end; give a folder" in capsys.readouterr().err
