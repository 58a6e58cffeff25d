"""What is done with a finished run: predict, explain, evaluate, and all that may be wrong."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from jtl.cli import main
from jtl.experiment import load_run, train
from jtl.report.explain import gradcam, overlay
from jtl.report.run import with_report
from jtl.training.measure.calibrate import best_thresholds
from jtl.training.measure.predictions import RAW, Calibration
from tests.experiment import runs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("use")]

SIZE = 16
SPLITS = ["train"] * 30 + ["val"] * 15 + ["test"] * 15
PHASES = [{"freeze": "backbone", "epochs": 2, "schedule": {"rate": 0.03}}]


def manifest(folder, header, labels):
    """A table of the images of the tests' source, with labels of one's own."""
    folder.mkdir(parents=True)
    rows = [f"path,{header},split"]
    for place, (image, split) in enumerate(zip(runs.source(60, SIZE).images, SPLITS)):
        Image.fromarray(image).save(folder / f"{place:02}.png")
        rows.append(f"{place:02}.png,{labels[place]},{split}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder / "table.csv"


def finished(folder, table, **changes):
    data = {"source": str(table), "batch_size": 10, "eval_batch_size": 8}
    options = runs.config(data=data, augment={}, train__phases=PHASES, **changes)
    return with_report(train(options, workdir=folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("use")
    labels = [runs.CLASSES[place] for place in runs.source(60, SIZE).labels]
    return finished(folder / "run", manifest(folder / "data", "label", labels))


@pytest.fixture
def images(run, tmp_path):
    """Six images of two folders, and three files that are none."""
    folder = tmp_path / "scans"
    for part in ("one", "two"):
        (folder / part).mkdir(parents=True)
        for place in range(3):
            picture = Image.fromarray(runs.source(60, SIZE).images[place])
            picture.save(folder / part / f"{place}.png")
    whole = (folder / "one" / "0.png").read_bytes()
    (folder / "one" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "one" / "empty.jpg").write_bytes(b"")
    (folder / "two" / "note.png").write_text("not an image")
    return folder


def said(capsys, *words):
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    try:
        main(list(map(str, words)))
        status = 0
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_files_that_are_no_images_are_named_and_the_rest_is_done(run, images, capsys):
    status, out, error = said(capsys, "predict", run.workdir, images, "--format", "json")
    assert status == 1
    rows = json.loads(out)
    names = [f"{part}/{place}.png" for part in ("one", "two") for place in range(3)]
    assert [row["image"].removeprefix(f"{images}/") for row in rows] == names
    assert [row["probability"] for row in rows[:3]] == [row["probability"] for row in rows[3:]]
    lines = error.strip().splitlines()
    assert len(lines) == 3
    for name in ("cut.png", "empty.jpg", "note.png"):
        assert sum(name in line for line in lines) == 1


def test_each_image_is_explained_by_a_picture_of_its_own(run, images, tmp_path, capsys):
    maps = tmp_path / "maps" / "new"
    words = ("predict", run.workdir, images, "--explain", maps, "--format", "json")
    status, out, _ = said(capsys, *words)
    rows = json.loads(out)
    assert status == 1
    assert len({row["overlay"] for row in rows}) == len(rows) == 6
    assert {str(path) for path in maps.iterdir()} == {row["overlay"] for row in rows}
    for row in rows[:2]:
        pixels = run.preprocess.resize_and_crop(np.asarray(Image.open(row["image"])))[None]
        classes = [run.classes.index(row["class"])]
        heat = gradcam(run.model, run.variables, run.preprocess.normalize(pixels), classes)
        expected = overlay(pixels[0], heat[0]).astype(int)
        picture = np.asarray(Image.open(row["overlay"])).astype(int)
        times = len(picture) // len(expected)
        assert len(picture) >= 224
        assert np.abs(picture - expected.repeat(times, 0).repeat(times, 1)).max() <= 1
    status, _, error = said(capsys, *words)
    assert status == 2
    assert "new holds" in error


def test_python_explains_arrays_as_the_command_does_files(run, tmp_path):
    made = run.explain(runs.source(60, SIZE).images[:2], tmp_path / "maps", top=2)
    assert [len(own.classes) for own in made] == [2, 2]
    assert all((tmp_path / "maps" / own.overlay.rsplit("/", 1)[1]).is_file() for own in made)


def test_flipped_views_are_averaged(run):
    own = runs.source(60, SIZE).images[:9]

    def rows(images, **how):
        made = dataclasses.replace(run, calibration=RAW).predict(images, top=3, **how)
        return np.array([[p for _, p in sorted(zip(x.classes, x.probabilities))] for x in made])

    both = rows(own, tta="flip")
    np.testing.assert_allclose(both, (rows(own) + rows(own[:, :, ::-1].copy())) / 2, atol=1e-5)
    assert np.abs(both - rows(own)).max() > 1e-4
    alone, both = run.evaluate("test"), run.evaluate("test", tta="flip")
    assert alone.keys() == both.keys()
    assert alone["loss"] != both["loss"]


def damage_best(copy):
    step = json.loads((copy / "summary.json").read_text("utf-8"))["best"]["step"]
    files = [path for path in (copy / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))


def rename_class(copy):
    config = copy / "config.yaml"
    text = config.read_text("utf-8")
    table = next(line.split(": ", 1)[1] for line in text.splitlines() if "table.csv" in line)
    folder = copy.parent / "renamed"
    shutil.copytree(table.rsplit("/", 1)[0], folder)
    own = folder / "table.csv"
    own.write_text(own.read_text("utf-8").replace(",cat,", ",dog,"), "utf-8")
    config.write_text(text.replace(table, str(own)), "utf-8")


def empty_folder(copy):
    shutil.rmtree(copy)
    copy.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words", "expected"),
    [
        (empty_folder, ["evaluate", "RUN"], "is no run"),
        (empty_folder, ["export", "RUN"], "is no run"),
        (empty_folder, ["predict", "RUN", "x.png"], "is no run"),
        (empty_folder, ["report", "RUN"], "is no run"),
        (None, ["evaluate", "RUN", "--split", "nope"], "it has train, val, test"),
        (rename_class, ["evaluate", "RUN"], "classes that the model does not have: dog"),
        (rename_class, ["evaluate", "RUN"], "lacks classes of the model: cat"),
        (damage_best, ["predict", "RUN", "x.png"], "damaged"),
        (None, ["predict", "RUN", "nowhere*"], "matches no file"),
        (None, ["export", "RUN", "--output", "RUN/summary.json"], "exists; choose another name"),
        (None, ["predict", "RUN", "RUN", "--explain", "RUN"], "folder without images"),
        (None, ["evaluate", "RUN", "--tta", "five"], "cuts nothing off"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(run, tmp_path, capsys, spoil, words, expected):
    copy = tmp_path / "copy"
    shutil.copytree(run.workdir, copy)
    if spoil is not None:
        spoil(copy)
    status, _, error = said(capsys, *(word.replace("RUN", str(copy)) for word in words))
    assert status == 2
    assert expected in error
    assert len(error.strip().splitlines()) <= 2
    assert "Traceback" not in error


def test_images_with_several_labels_from_the_table_to_the_report(tmp_path, capsys):
    rng = np.random.default_rng(0)
    has = rng.random((60, 3)) < 0.5
    has[:3] = True
    labels = ["|".join(np.array(runs.CLASSES)[row]) or "ant" for row in has]
    table = manifest(tmp_path / "data", "labels", labels)
    run = finished(tmp_path / "run", table, train__loss={"name": "sigmoid"})
    val, test = run.predictions("val"), run.predictions("test")
    scaled = Calibration(temperature=run.calibration.temperature)
    found = best_thresholds(val.probabilities(scaled), val.truth)
    assert run.calibration.thresholds == pytest.approx(found)
    chosen = test.probabilities(scaled) >= np.array(found)
    assert run.evaluate("test")["f1"] == pytest.approx(
        f1_score(test.truth, chosen, average="macro", zero_division=0)
    )
    assert load_run(run.workdir).summary["best"]["metrics"]["test"] == pytest.approx(
        run.evaluate("test")
    )
    status, out, _ = said(capsys, "predict", run.workdir, tmp_path / "data", "--format", "csv")
    assert status == 0
    assert out.startswith("image,class,probability,predicted\n")
    assert said(capsys, "evaluate", run.workdir, "--per-class")[0] == 0
    page = run.report().read_text("utf-8")
    for text in ("hamming_loss", "Reliability on test", ">threshold<", f"{found[0]:.4f}"):
        assert text in page
