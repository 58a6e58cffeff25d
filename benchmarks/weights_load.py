"""How long does loading ResNet-50 take, beside numpy reading the same bytes and transposing them?

    python -m benchmarks.weights_load

A safetensors file in torchvision's layout is written once and read again and again, numpy and
jtl taking turns. numpy reads the whole file and copies each tensor into our order of axes once;
jtl does the same, and checks the header, every value, every name and every shape, and gives jax
arrays. The first load of a model in a process also traces it for its shapes: how long that takes
is measured in a process of its own, which also says how much memory the rest took at its peak.
"""

import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import record

# What loading may take, in multiples of numpy's time and of the size of the weights.
TIME_LIMIT, MEMORY_LIMIT = 1.5, 2.0


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    name, repeats = ("resnet18", 3) if arguments.smoke else ("resnet50", 15)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        size = _write_model(name, path)
        first = _in_fresh_process(_first_load, name, path)
        times = _in_fresh_process(_take_turns, name, path, repeats)
    numpy, ours = (record.spread(times[key]) for key in ("numpy", "jtl"))
    ratio = ours["median"] / numpy["median"]
    copies = first["peak_bytes"] / size
    print(f"{name}, {size / 1e6:.1f} MB in {first['tensors']} tensors, {repeats} turns")
    print(f"numpy reads and transposes    {_milliseconds(numpy)}")
    print(f"jtl.load_model                {_milliseconds(ours)}   {ratio:.2f} × numpy")
    print(f"tracing, in a new process     {1e3 * first['tracing_seconds']:6.0f} ms")
    print(f"the rest of the first load    {1e3 * first['seconds']:6.0f} ms")
    print(f"memory at its peak            {copies:.2f} × the weights, the mapped file included")
    rows = [
        {"name": "numpy reads and transposes", "seconds": numpy},
        {"name": "jtl.load_model", "seconds": ours, "ratio": ratio, "limit": TIME_LIMIT},
        {"name": "jtl.load_model, first in its process", **first},
        {"name": "peak memory in copies", "copies": copies, "limit": MEMORY_LIMIT},
    ]
    written = record.write(arguments.results, "weights_load", rows, model=name, bytes=size)
    print(written)


def _write_model(name: str, path: Path) -> int:
    """A file of the model with random values, and the bytes of its weights."""
    from jtl.models.registry import create_model
    from jtl.tree import nbytes, unflatten
    from jtl.weights.layouts.layout import variable_shapes
    from jtl.weights.save import save_weights

    model = create_model(name)
    rng = np.random.default_rng(0)
    leaves = {
        key: np.abs(rng.standard_normal(leaf.shape, np.float32))
        for key, leaf in variable_shapes(model).items()
    }
    save_weights(path, model, unflatten(leaves), layout="torchvision")
    return nbytes(leaves)


def _read_with_numpy(path: Path) -> dict[str, np.ndarray]:
    data = np.fromfile(path, np.uint8)
    start = 8 + int(data[:8].view("<u8")[0])
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    kinds = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
    turns = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,), 0: ()}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensor = data[start + begin : start + end].view(kinds[entry["dtype"]])
        tensor = tensor.reshape(entry["shape"])
        tensors[name] = np.array(tensor.transpose(turns[tensor.ndim]), order="C")
    return tensors


def _take_turns(name: str, path: Path, repeats: int) -> dict[str, list[float]]:
    import jax

    from jtl.weights.load import load_model

    contestants: dict[str, Callable[[], object]] = {
        "numpy": lambda: _read_with_numpy(path),
        "jtl": lambda: jax.block_until_ready(load_model(name, path).variables),
    }
    times: dict[str, list[float]] = {key: [] for key in contestants}
    for turn in range(repeats + 1):
        for key, load in contestants.items():
            start = time.perf_counter()
            load()
            if turn:  # the first turn warms up
                times[key].append(time.perf_counter() - start)
    return times


def _first_load(name: str, path: Path) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from jtl.weights.fit import fit_layout
    from jtl.weights.load import load_model
    from jtl.weights.readers import read_weights

    jax.block_until_ready(jax.device_put(jnp.zeros(1)))
    start = time.perf_counter()
    # Reads the header alone and traces the model, as the load itself would do first.
    fit_layout(name, read_weights(path), {"dropout_rate": 0.0})
    traced = time.perf_counter()
    before = _resident_bytes()
    loaded = load_model(name, path)
    jax.block_until_ready(loaded.variables)
    return {
        "tracing_seconds": traced - start,
        "seconds": time.perf_counter() - traced,
        "peak_bytes": _peak_bytes() - before,
        "tensors": len(loaded.ledger.sources),
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _in_fresh_process(function: Callable[..., dict], *arguments: object) -> dict:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _milliseconds(figures: dict) -> str:
    return f"{1e3 * figures['median']:6.0f} ms (best {1e3 * figures['min']:.0f})"


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
