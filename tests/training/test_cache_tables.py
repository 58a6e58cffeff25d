"""Tables of rows: what is written is read, and a file is whole or made again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.errors import CheckpointError
from jtl.training.cache.batches import RowBatches
from jtl.training.cache.tables import FileTable, make_table
from tests.training.cached import PLACEMENTS

ROW = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
LENGTH, BLOCKS = 5, 2
VALUES = jnp.asarray(np.random.default_rng(0).normal(size=(BLOCKS * LENGTH, 2, 3)), jnp.bfloat16)


def fill(table, blocks=range(BLOCKS)):
    for block in blocks:
        for start in range(block * LENGTH, (block + 1) * LENGTH, 2):
            stop = min(start + 2, (block + 1) * LENGTH)
            table.write(start, VALUES[start:stop])
        table.finish(block)
    return table


def file_table(folder, key="a", row=ROW, length=LENGTH):
    path = folder / "activations" / "train.bin"
    return FileTable(path, key, blocks=BLOCKS, length=length, row=row)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("where", ["device", "host", "file"])
def test_batches_are_the_rows_asked_for_laid_out_as_the_placement_does(tmp_path, where, placement):
    place = PLACEMENTS[placement]()
    path = tmp_path / "rows.bin"
    table = make_table(where, place, path, "a", blocks=BLOCKS, length=LENGTH, row=ROW)
    for block in range(BLOCKS):
        for start in range(block * LENGTH, (block + 1) * LENGTH, 2):
            stop = min(start + 2, (block + 1) * LENGTH)
            table.write(start, place.put_state(VALUES[start:stop]))
        table.finish(block)
    assert table.complete == {0, 1}
    rows = np.array([[9, 0, 0, 4], [1, 8, 3, 2], [5, 5, 6, 7]], np.int32)
    columns = {"row": rows, "label": rows * 2, "soft": np.stack([rows, -rows], axis=-1)}
    batches = list(RowBatches(place, 4).of(table, columns, 2))
    assert len(batches) == 2
    for step, batch in enumerate(batches):
        expected = place.put_batch(
            {
                "image": VALUES[rows[step]],
                "label": columns["label"][step],
                "soft": columns["soft"][step],
            }
        )
        assert batch.keys() == expected.keys()
        for name, leaf in expected.items():
            np.testing.assert_array_equal(batch[name], leaf)
            assert batch[name].dtype == leaf.dtype
            assert batch[name].sharding == leaf.sharding


def test_a_file_is_taken_over_with_its_bits(tmp_path):
    fill(file_table(tmp_path))
    again = file_table(tmp_path)
    assert again.complete == {0, 1}
    assert again.note == ""
    assert again.rows.tobytes() == np.asarray(VALUES).tobytes()


def test_only_finished_blocks_are_taken_over(tmp_path):
    table = fill(file_table(tmp_path), [1])
    table.write(0, VALUES[:2])
    assert file_table(tmp_path).complete == {1}


@pytest.mark.parametrize("place", range(0, BLOCKS * LENGTH * 12, 13))
def test_a_changed_byte_costs_its_block_alone(tmp_path, place):
    fill(file_table(tmp_path))
    path = tmp_path / "activations" / "train.bin"
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    again = file_table(tmp_path)
    assert again.complete == {1 - place // (LENGTH * 12)}
    assert "is damaged" in again.note
    fill(again, {0, 1} - again.complete)
    assert file_table(tmp_path).rows.tobytes() == np.asarray(VALUES).tobytes()


def test_a_file_cut_short_is_made_again(tmp_path):
    fill(file_table(tmp_path))
    path = tmp_path / "activations" / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert file_table(tmp_path).complete == {0}


def test_a_missing_file_is_made_again(tmp_path):
    fill(file_table(tmp_path))
    (tmp_path / "activations" / "train.bin").unlink()
    assert file_table(tmp_path).complete == set()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"key": "a"}'])
def test_a_damaged_manifest_is_made_again(tmp_path, text):
    fill(file_table(tmp_path))
    (tmp_path / "activations" / "train.json").write_text(text)
    assert file_table(tmp_path).complete == set()


@pytest.mark.parametrize(
    "change",
    [
        {"key": "b"},
        {"row": jax.ShapeDtypeStruct((3, 2), jnp.bfloat16)},
        {"row": jax.ShapeDtypeStruct((2, 3), jnp.float16)},
        {"length": 4},
    ],
)
def test_the_file_of_something_else_is_not_taken(tmp_path, change):
    fill(file_table(tmp_path))
    other = file_table(tmp_path, **change)
    assert other.complete == set()
    assert other.note == ""


def test_a_manifest_that_claims_more_than_is_there_is_not_believed(tmp_path):
    fill(file_table(tmp_path), [0])
    manifest = tmp_path / "activations" / "train.json"
    record = json.loads(manifest.read_text())
    record["blocks"]["1"] = record["blocks"]["0"]
    manifest.write_text(json.dumps(record))
    assert file_table(tmp_path).complete == {0}


def test_closing_gives_back_what_was_taken(tmp_path):
    file = fill(file_table(tmp_path))
    file.close()
    assert not list((tmp_path / "activations").iterdir())
    place = jtl.parallel.single()
    device = make_table("device", place, tmp_path, "a", blocks=1, length=2, row=ROW)
    rows = device.rows
    device.close()
    assert rows.is_deleted()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "activations").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"train\.cache=off"):
        file_table(tmp_path)
