import json

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import assert_same

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
STATE = {
    "params": {"stem": {"kernel": KERNEL, "bias": jnp.ones(3, jnp.bfloat16)}},
    "batch_stats": {"stem": {"mean": np.zeros(3, np.float16)}},
    "opt_state": [{"mu": KERNEL * 3}, {"nu": KERNEL * 4}],
    "step": 7,
}
FLAT = {
    "params/stem/kernel": KERNEL,
    "params/stem/bias": np.ones(3, jnp.bfloat16),
    "batch_stats/stem/mean": np.zeros(3, np.float16),
}


def save(folder, tree, **options):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(folder, ocp.args.PyTreeSave(tree))
    return folder


@pytest.fixture
def item(tmp_path):
    return save(tmp_path / "item", STATE)


def refusal(path, **options):
    with pytest.raises(WeightsError) as caught:
        read_weights(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{}, {"use_ocdbt": False}, {"use_zarr3": True}, {"use_zarr3": True, "use_ocdbt": False}],
)
def test_variables_come_by_slash_path_from_every_storage(tmp_path, options):
    weights = read_weights(save(tmp_path / "item", STATE, **options))
    assert weights.format == "orbax"
    assert_same(weights.tensors, FLAT)
    assert weights.notes == ("left aside 'opt_state', 'step'",)


def test_another_entry_is_opened_when_asked_for(tmp_path):
    state = {**STATE, "ema": {"params": {"stem": {"kernel": KERNEL * 2}}}}
    weights = read_weights(save(tmp_path / "item", state), entry="ema")
    assert_same(weights.tensors, {"params/stem/kernel": KERNEL * 2})


def test_the_item_of_a_manager_s_step_is_opened(tmp_path):
    arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(STATE), notes=ocp.args.JsonSave({}))
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(5, args=arguments)
    weights = read_weights(tmp_path / "5")
    assert_same(weights.tensors, FLAT)
    assert weights.notes == ("opened the item 'state'", "left aside 'opt_state', 'step'")
    assert f"give one, as in {tmp_path / '5'}" in refusal(tmp_path)


def test_what_is_left_aside_is_not_read(tmp_path):
    item = save(tmp_path / "item", STATE, use_ocdbt=False)
    chunks = [path for path in item.glob("opt_state*/*") if not path.name.startswith(".")]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(b"damaged")
    assert_same(read_weights(item).tensors, FLAT)


@pytest.mark.parametrize("ocdbt", [True, False])
def test_data_cut_short_is_refused(tmp_path, ocdbt):
    item = save(tmp_path / "item", STATE, use_ocdbt=ocdbt)
    pattern = "d/*" if ocdbt else "params*/[0-9]*"
    chunks = list(item.glob(pattern))
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(chunk.read_bytes()[:4])
    assert "an array store cannot be read" in refusal(item)


def test_a_chunk_that_is_missing_is_no_zeros(tmp_path):
    item = save(tmp_path / "item", STATE, use_ocdbt=False)
    (item / "params.stem.kernel" / "0.0").unlink()
    assert "an array store cannot be read" in refusal(item)


@pytest.mark.parametrize("missing", ["manifest.ocdbt", "_METADATA"])
def test_an_incomplete_folder_is_refused(item, missing):
    (item / missing).unlink()
    refusal(item)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"tree_metadata": 3}', '{"tree_metadata": {"a": {}}}']
)
def test_a_damaged_index_is_refused(item, text):
    (item / "_METADATA").write_text(text)
    assert "is no index of a PyTree checkpoint" in refusal(item)


@pytest.mark.parametrize("name", ["../secret", "..", "a/../../b", "/etc", "..\\secret", ".hidden"])
def test_a_name_that_climbs_out_of_the_folder_is_refused(tmp_path, name):
    item = save(tmp_path / "item", {"params": {"inside": KERNEL}}, use_ocdbt=False)
    save(tmp_path / "secret", {"a": KERNEL}, use_ocdbt=False)
    index = (item / "_METADATA").read_text().replace('"inside"', json.dumps(name))
    (item / "_METADATA").write_text(index)
    assert "leads out of the folder" in refusal(item)


def test_a_link_out_of_the_folder_is_refused(item, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (item / "d" / "link").symlink_to(tmp_path / "secret")
    assert "is a link out of the folder" in refusal(item)


def test_a_shape_far_beyond_the_folder_is_refused_before_it_is_allocated(tmp_path):
    item = save(tmp_path / "item", {"params": {"a": KERNEL}}, use_ocdbt=False)
    path = item / "params.a" / ".zarray"
    zarray = json.loads(path.read_text())
    path.write_text(json.dumps({**zarray, "shape": [2**20, 2**20]}))
    assert "bytes of memory" in refusal(item)


def test_a_chunk_far_beyond_the_folder_is_refused(tmp_path):
    item = save(tmp_path / "item", {"params": {"a": KERNEL}}, use_ocdbt=False)
    path = item / "params.a" / ".zarray"
    zarray = json.loads(path.read_text())
    path.write_text(json.dumps({**zarray, "chunks": [2**20, 2**20]}))
    assert "claims chunks" in refusal(item)


def test_an_unknown_entry_lists_those_there_are(item):
    assert "there are 'batch_stats', 'opt_state', 'params'" in refusal(item, entry="ema")
