"""A run as ONNX, translated operation by operation from what jax traces of our networks.

jax2onnx 0.17 gives graphs that onnxruntime refuses for two of the three families (their
max-pooling), and needs an older checkpoint library than jtl does.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.errors import ConfigError
from jtl.experiment.run import Run
from jtl.export.function import make_function
from jtl.export.graph import Graph

_OPSET = 17  # onnxruntime has known it since 1.12 (2022)


def write_onnx(run: Run, path: Path) -> None:
    """Writes a graph that takes any number of images.

    Raises:
        ConfigError: onnx is not installed, or the network has an operation without a translation.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("ONNX takes onnx: pip install 'jtl[onnx]'.") from error
    from jax import export

    size = run.preprocess.input_size
    shape = export.symbolic_shape(f"batch, {size}, {size}, 3")
    traced = jax.make_jaxpr(make_function(run))(jax.ShapeDtypeStruct(shape, np.uint8))
    graph = Graph()
    outputs = graph.translate(traced.jaxpr, traced.consts, ["images"])
    graph.add("Identity", [graph.name_of(outputs[0])], "probabilities")
    helper, types = onnx.helper, onnx.TensorProto
    made = helper.make_graph(
        graph.nodes,
        run.config.name,
        [helper.make_tensor_value_info("images", types.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info("probabilities", types.FLOAT, ["batch", len(run.classes)])],
        graph.constants,
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(made, opset_imports=opset, producer_name="jtl", ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def run_onnx(path: Path, images: np.ndarray) -> Any:
    """What a file of ONNX says of images, in onnxruntime.

    Raises:
        ConfigError: onnxruntime is not installed, so that nothing could be checked.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "An ONNX export is checked in onnxruntime: pip install 'jtl[onnx]'."
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]
