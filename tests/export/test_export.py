import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import jtl
from jtl.errors import ConfigError, WeightsError
from jtl.export import export_run
from jtl.export.function import check, real_images
from jtl.export.graph import Graph
from jtl.training.measure.predictions import Calibration
from tests.experiment import runs

# A reader that knows nothing of jtl; it prints probabilities.
STABLEHLO = """
import sys
import numpy as np
from jax import export
model = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
assert set(model.platforms) == {"cpu", "cuda", "tpu"}
rows = [np.asarray(model.call(np.load(sys.argv[2])[:n])).tolist() for n in (1, 5)]
assert "jtl" not in sys.modules
print(rows)
"""
ONNX = """
import sys
import numpy as np
import onnxruntime
model = onnxruntime.InferenceSession(sys.argv[1])
rows = [model.run(None, {"images": np.load(sys.argv[2])[:n]})[0].tolist() for n in (1, 5)]
assert "jtl" not in sys.modules
print(rows)
"""
TF = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
images = np.load(sys.argv[2])
rows = [model(images=tf.constant(images[:n]))["probabilities"].numpy().tolist() for n in (1, 5)]
assert "jtl" not in sys.modules
print(rows)
"""
# What an export takes beside jtl, and the program that reads it.
READERS = {"stablehlo": ("jax", STABLEHLO), "onnx": ("onnxruntime", ONNX), "tf": ("tensorflow", TF)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.run(tmp_path_factory.mktemp("export") / "run")


def in_fresh_process(code, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("form", READERS)
def test_an_export_says_in_a_fresh_process_what_the_run_says(run, tmp_path, form):
    library, reader = READERS[form]
    pytest.importorskip(library)
    sharp = dataclasses.replace(run, calibration=Calibration(temperature=0.1))
    output, labels, card = export_run(sharp, form, tmp_path / f"model.{form}")
    np.save(tmp_path / "images.npy", real_images(run)[:5])
    one, five = in_fresh_process(reader, output, tmp_path / "images.npy")
    kept = json.loads(labels.read_text("utf-8"))
    assert kept["labels"] == list(runs.CLASSES)
    assert (kept["temperature"], kept["temperature_applied"]) == (0.1, True)
    assert "Temperature 0.1000: for probabilities, logits are divided" in card.read_text("utf-8")
    check(sharp, form, real_images(run)[:5], five)
    with pytest.raises(WeightsError, match="differ from the run's"):
        check(run, form, real_images(run)[:5], five)
    np.testing.assert_allclose(one, five[:1], atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if "model" in path.name) == sorted(
        path.name for path in (output, labels, card)
    )


def test_weights_are_loaded_again(run, tmp_path):
    output, *_ = export_run(run, "safetensors", tmp_path / "model.safetensors")
    loaded = jtl.load_model("resnet_mini", weights=str(output))
    for a, b in zip(jax.tree.leaves(loaded.variables), jax.tree.leaves(run.variables)):
        assert (np.asarray(a) == np.asarray(b)).all()


def test_a_layout_without_a_place_for_the_network_is_refused(run, tmp_path):
    with pytest.raises(WeightsError, match="torchvision would compute something else"):
        export_run(run, "torchvision", tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_card_says_what_matters(run, tmp_path):
    card = export_run(run, "safetensors", tmp_path / "model.safetensors")[2].read_text("utf-8")
    for text in ("drawn for a test", "ant, bee, cat", "| test | accuracy |", "began at random",
                 "Checked against the run", "95 % interval"):  # fmt: skip
        assert text in card


def test_what_exists_is_never_written_over(run, tmp_path):
    (tmp_path / "model.stablehlo.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"model.stablehlo.md exists"):
        export_run(run, "stablehlo", tmp_path / "model.stablehlo")
    with pytest.raises(ConfigError, match="there is no folder"):
        export_run(run, "stablehlo", tmp_path / "nowhere" / "model.stablehlo")


def test_an_export_that_says_something_else_is_none(run):
    images = real_images(run)
    with pytest.raises(WeightsError, match="differ from the run's by"):
        check(run, "onnx", images, np.full((len(images), 3), 1 / 3))


def mean_pool(x):
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return total / 9.0


@pytest.mark.parametrize(
    "function",
    [
        mean_pool,
        lambda x: jax.lax.reduce_window(
            x, -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
        ),
        lambda x: x[..., ::-1] - x,
        lambda x: x[:, ::2, 1::3],
        lambda x: jax.numpy.einsum("bhwc,kh->bkwc", x, np.ones((5, 8), np.float32)),
        lambda x: jax.numpy.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)))[:, 1::2],
        lambda x: jax.numpy.concatenate([x, jax.nn.relu(-x)], axis=-1),
        lambda x: jax.lax.rsqrt(1 + x**2).mean((1, 2)),
        lambda x: jax.numpy.where(x > 0, x, 0.1 * x).max(3),
    ],
    ids=["mean", "max", "channels", "strided", "einsum", "pad", "concatenate", "rsqrt", "where"],
)
def test_each_operation_is_translated(function):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    shape = jax.export.symbolic_shape("batch, 8, 8, 4")
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, np.float32))
    graph = Graph()
    graph.add("Identity", graph.translate(traced.jaxpr, traced.consts, ["x"]), "y")
    kind = onnx.TensorProto.FLOAT
    x = onnx.helper.make_tensor_value_info("x", kind, ["batch", 8, 8, 4])
    y = onnx.helper.make_tensor_value_info("y", kind, None)
    made = onnx.helper.make_graph(graph.nodes, "g", [x], [y], graph.constants)
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(made, opset_imports=opset, ir_version=8)
    session = ort.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
    (got,) = session.run(None, {"x": images})
    np.testing.assert_allclose(got, function(images), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "library", "extra"),
    [("stablehlo", "flatbuffers", "export"), ("onnx", "onnx", "onnx"), ("tf", "tensorflow", "tf")],
)
def test_a_missing_library_is_named_with_how_to_install_it(
    run, tmp_path, monkeypatch, form, library, extra
):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"pip install 'jtl\[{extra}\]'"):
        export_run(run, form, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
