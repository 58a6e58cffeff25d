"""No file can run code, open a socket or read elsewhere, and none takes much more than its size."""

import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import (
    DATA,
    GOLDEN,
    Storage,
    onnx_model,
    onnx_node,
    onnx_tensor,
    safetensors,
    save_orbax,
    small_files,
    tensor,
    torch_zip,
    zipped,
)

PROJECT = Path(__file__).parents[3]


def run_python(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def hostile_files(folder: Path) -> list[Path]:
    """Small files that claim a great deal, one trick each."""
    claim = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    paths = [folder / name for name in ("a.safetensors", "b.safetensors", "a.onnx", "a.msgpack")]
    paths[0].write_bytes(safetensors({"a": claim}, bytes(8)))
    paths[1].write_bytes(safetensors({}, length=2**40))
    huge = onnx_tensor("w", (2**40,), bytes(8))
    paths[2].write_bytes(onnx_model([onnx_node("Conv", ["x", "w"])], [huge]))
    paths[3].write_bytes(b"\x81\xa1a" * 500 + b"\xdd\xff\xff\xff\xff")
    memo = b"\x80\x02}r\xff\xff\xff\xff."
    paths.append(torch_zip(folder / "memo.pt", memo, {}))
    paths.append(torch_zip(folder / "long.pt", b"\x80\x02\x8b\xff\xff\xff\x7f.", {}))
    bomb = {"a.npy": bytes(2**27)}
    paths.append(zipped(folder / "bomb.npz", bomb, zipfile.ZIP_DEFLATED))
    with h5py.File(folder / "shape.h5", "w") as file:
        file.create_dataset("vars/0", (2**36,), "f8", chunks=(2**14,), compression="gzip")
    with h5py.File(folder / "chunk.h5", "w") as file:
        file.create_dataset("vars/0", (4,), "f8", maxshape=(None,), chunks=(2**28,))
    return [*paths, folder / "shape.h5", folder / "chunk.h5"]


def test_a_small_file_that_claims_much_takes_little_memory(tmp_path):
    for path in hostile_files(tmp_path):
        tracemalloc.start()
        with pytest.raises(WeightsError):
            read_weights(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**23, f"{path.name} took {peak:,} bytes"


MEASURED = """
import resource, sys
import jax, h5py, msgpack, tensorstore
from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_weights(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try: read_weights(path)
    except WeightsError: continue
    sys.exit(f"{path} was read")
print(peak() - before)
"""


def test_a_small_file_that_claims_much_takes_little_of_the_machine_s_memory(tmp_path):
    paths = [DATA / "keras-net.keras", *hostile_files(tmp_path)]
    item = save_orbax(tmp_path / "item", use_ocdbt=False)
    array = item / "params.conv1.weight" / ".zarray"
    array.write_text(array.read_text().replace("4", "4000000000"))
    done = run_python(MEASURED, *paths, item)
    assert done.returncode == 0, done.stderr
    # In KiB, native libraries included: the largest of these files is 130 KB.
    assert int(done.stdout) < 64 * 1024


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.pt"])
def test_an_honest_file_takes_no_memory_of_its_own(tmp_path, name):
    big = {"a": np.ones(2**22, np.float32)}
    path = tmp_path / name
    if name == "a.safetensors":
        save_file(big, path)
    elif name == "a.npz":
        np.savez(path, **big)
    else:
        one = tensor(Storage("FloatStorage", "0", 2**22), (2**22,), (1,))
        torch_zip(path, {"a": one}, {"0": big["a"].tobytes()})
    tracemalloc.start()
    weights = read_weights(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert weights.tensors["a"].sum() == 2**22
    assert peak < 2**20


WATCHED = """
import os, sys
import jax, h5py, msgpack, orbax.checkpoint, tensorstore  # what readers import, before the watch
from jtl.errors import WeightsError
from jtl.weights.readers import read_weights, check_finite
folder, secret, *paths = sys.argv[1:]
inside = os.path.realpath(folder)
allowed = tuple(os.path.realpath(p) for p in (*sys.path, sys.prefix, sys.base_prefix) if p)
forbidden = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
             "subprocess.Popen", "socket.", "pty.spawn", "ctypes.", "urllib.", "http.", "ftplib.",
             "shutil.", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link",
             "os.truncate", "os.chmod", "os.chown", "tempfile.", "webbrowser.", "pickle.find_class",
             "exec", "compile")
seen = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writes = arguments[1] and set(str(arguments[1])) & set("wax+")
        if writes or not path.startswith((inside + os.sep, *allowed)) or path == secret:
            seen.append(f"open {path} {arguments[1]}")
    elif event.startswith(forbidden) and not event.startswith("compile"):
        seen.append(f"{event} {str(arguments)[:200]}")
# The first reading of each kind imports what it needs.
for path in paths:
    try: read_weights(path)
    except WeightsError: pass
sys.addaudithook(watch)
answers = []
for path in paths:
    try:
        check_finite(read_weights(path))
        answers.append("read")
    except WeightsError:
        answers.append("refused")
print(" ".join(answers))
print("\\n".join(seen))
sys.exit(bool(seen))
"""


def attacks(folder: Path, secret: Path, mark: Path) -> list[Path]:
    """Files that try to run something, or to read `secret` outside the folder."""

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    calls = [torch_zip(folder / f"{p}.pt", pickle.dumps(Attack(), p), {}) for p in range(6)]
    np.savez(folder / "objects.npz", a=np.array([Attack()], dtype=object))
    (folder / "bare.pth").write_bytes(pickle.dumps({"a": Attack()}))
    (folder / "old.pth").write_bytes(
        (DATA / "torch-legacy.pth").read_bytes()[:14] + pickle.dumps(Attack(), 2)
    )
    reach = onnx_tensor("w", (1,), None, {"location": os.path.relpath(secret, folder)})
    (folder / "reach.onnx").write_bytes(onnx_model([onnx_node("Conv", ["x", "w"])], [reach]))
    (folder / "linked.data").symlink_to(secret)
    linked = onnx_tensor("w", (1,), None, {"location": "linked.data"})
    (folder / "link.onnx").write_bytes(onnx_model([onnx_node("Conv", ["x", "w"])], [linked]))
    with h5py.File(folder / "link.h5", "w") as file:
        file["vars/0"] = h5py.ExternalLink(str(secret), "/a")
    with h5py.File(folder / "external.h5", "w") as file:
        file.create_dataset("vars/0", (3,), "u1", external=[(str(secret), 0, 3)])
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "a", (3,))
    with h5py.File(folder / "virtual.h5", "w") as file:
        file.create_virtual_dataset("vars/0", layout)
    names = ["objects.npz", "bare.pth", "old.pth", "reach.onnx", "link.onnx", "link.h5"]
    names += ["external.h5", "virtual.h5"]
    codes = [DATA / name for name in ("keras-lambda.keras", "keras-lambda.h5", "torch-module.pt")]
    for code in codes:
        (folder / code.name).write_bytes(code.read_bytes())
    return [*calls, *(folder / name for name in (*names, *(code.name for code in codes)))]


def test_no_file_starts_a_process_opens_a_socket_or_reads_outside_its_folder(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    secret, mark = tmp_path / "secret", tmp_path / "ran"
    secret.write_bytes(b"secret")
    honest = small_files(folder)
    save_orbax(folder / "orbax")
    hostile = attacks(folder, secret, mark)
    paths = [*honest, folder / "orbax", *hostile]
    done = run_python(WATCHED, folder, secret, *paths)
    answers, _, seen = done.stdout.partition("\n")
    assert done.returncode == 0, seen + done.stderr
    assert answers.split() == ["read"] * (len(honest) + 1) + ["refused"] * len(hostile)
    assert not mark.exists()


def test_the_watch_itself_sees_a_process_and_a_file_outside(tmp_path):
    """The test above can fail: the same watch reports what a real unpickling would do."""
    source = WATCHED.replace(
        "check_finite(read_weights(path))",
        "open('/etc/hostname').read(); import subprocess; subprocess.run(['true'])",
    )
    done = run_python(source, tmp_path, "none", tmp_path / "a")
    assert done.returncode == 1
    assert "open /etc/hostname" in done.stdout
    assert "subprocess.Popen" in done.stdout


def test_readers_import_neither_torch_nor_keras_nor_tensorflow_nor_onnx():
    source = (
        "import sys; from jtl.weights.readers import read_weights\n"
        f"[read_weights(f'{DATA}/' + name) for name in {GOLDEN!r}]\n"
        "print([name for name in ('torch', 'keras', 'tensorflow', 'onnx') if name in sys.modules])"
    )
    done = run_python(source)
    assert done.stdout.strip() == "[]", done.stderr
