import os
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import (
    DATA,
    TORCH_SHAPES,
    Named,
    Reference,
    Storage,
    assert_same,
    ruled,
    tensor,
    torch_pickle,
    torch_zip,
)

FOUR = np.arange(4, dtype="<f4").tobytes()


def refusal(path, **options):
    with pytest.raises(WeightsError) as caught:
        read_weights(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["torch-plain.pth", "torch-legacy.pth"])
def test_a_real_state_dict_is_read_bit_for_bit(name):
    weights = read_weights(DATA / name)
    assert weights.format == "torch"
    assert_same(weights.tensors, ruled(TORCH_SHAPES))
    assert list(weights.tensors) == list(TORCH_SHAPES)
    assert weights.notes == ()


@pytest.mark.parametrize("name", ["torch-plain.pth", "torch-legacy.pth"])
def test_tensors_are_views_of_the_mapped_file(name):
    assert not any(t.flags.owndata for t in read_weights(DATA / name).tensors.values())


def test_views_and_every_element_type_of_a_real_file():
    tensors = read_weights(DATA / "torch-views.pt").tensors
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    four = np.arange(4)
    assert_same(
        tensors,
        {
            "base": base,
            "transposed": base.T,
            "column": base[:, 2],
            "inner": base[1:3, 2:5],
            "parameter": base[:2, :2],
            "bfloat16": four.astype(ml_dtypes.bfloat16),
            "half": four.astype(np.float16),
            "double": four.astype(np.float64),
            "float8": four.astype(ml_dtypes.float8_e4m3fn),
            "unsigned": four.astype(np.uint16),
            "flag": np.array([True, False]),
            "complex": np.array([1 + 2j], np.complex64),
            "scalar": np.array(7),
            "empty": np.zeros((0, 3), np.float32),
        },
    )


def test_a_training_checkpoint_gives_the_network_and_says_what_it_left():
    weights = read_weights(DATA / "torch-wrapped.pth")
    assert_same(weights.tensors, ruled(TORCH_SHAPES))
    assert weights.notes == (
        "opened 'state_dict', left aside 'epoch', 'arch', 'state_dict_ema', 'optimizer', 'best'",
        "removed '_orig_mod' from 20 of 20 names",
        "removed 'module' from 20 of 20 names",
    )


def test_another_entry_is_opened_when_asked_for():
    weights = read_weights(DATA / "torch-wrapped.pth", entry="state_dict_ema")
    assert_same(weights.tensors, {k: v * 2 for k, v in ruled(TORCH_SHAPES).items()})


def test_an_unknown_entry_lists_those_there_are():
    said = refusal(DATA / "torch-wrapped.pth", entry="state_dict_em")
    assert "'state_dict', 'state_dict_ema', 'optimizer'" in said
    assert "did you mean 'state_dict_ema'?" in said


def test_a_big_endian_file_gives_the_same_numbers(tmp_path):
    values = np.arange(4, dtype="<f4")
    path = torch_zip(
        tmp_path / "a.pt",
        {
            "f": tensor(Storage("FloatStorage", "0", 4), (2, 2), (2, 1)),
            "b": tensor(Storage("BFloat16Storage", "1", 4), (4,), (1,)),
            "c": tensor(Storage("ComplexFloatStorage", "2", 2), (2,), (1,)),
        },
        {
            "0": values.astype(">f4").tobytes(),
            "1": values.astype(ml_dtypes.bfloat16).view(np.uint16).byteswap().tobytes(),
            "2": values.astype(">f4").tobytes(),
        },
        byteorder="big",
    )
    assert_same(
        read_weights(path).tensors,
        {
            "f": values.reshape(2, 2),
            "b": values.astype(ml_dtypes.bfloat16),
            "c": np.array([1j, 2 + 3j], np.complex64),
        },
    )


def test_a_whole_module_is_refused_by_the_name_of_its_class():
    said = refusal(DATA / "torch-module.pt")
    assert "asks for __main__.Net" in said
    assert "state_dict()" in said


def test_torchscript_is_refused_as_code():
    assert "TorchScript" in refusal(DATA / "torch-script.pt")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("numpy", "load"),
        ("collections", "OrderedDict.fromkeys"),
        ("argparse", "Namespace"),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_by_its_name(tmp_path, module, name):
    call = Named(module, name, f"touch {tmp_path / 'ran'}")
    path = torch_zip(tmp_path / "a.pt", {"a": call}, {})
    assert f"asks for {module}.{name}," in refusal(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_a_real_attack_is_refused_in_every_protocol(tmp_path):
    import pickle

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = torch_zip(tmp_path / f"{protocol}.pt", pickle.dumps(Attack(), protocol), {})
        said = refusal(path)
        assert "asks for posix.system" in said or "asks for nt.system" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("opcodes", "said"),
    [
        (b"(i__main__\nX\n.", "uses INST"),
        (b"(c__main__\nX\no.", "asks for __main__.X"),
        (b"Pname\n.", "uses PERSID"),
        (b"\x82\x01.", "uses EXT1"),
        (b"ccollections\nOrderedDict\n)\x81.", "uses NEWOBJ"),
        (b"K\x01)R.", "a call of int"),
        (b"ccollections\nOrderedDict\nK\x01R.", "a call of "),
        (b"K\x01}b.", "int where a dict should be"),
        (b"})s.", "IndexError"),
        (b"}K\x01\x85K\x01s.", "a dict key of type tuple"),
        (b"h\x05.", "KeyError"),
        (b".", "IndexError"),
        (b"", "ValueError"),
        (b"\x8c\xffab.", "ValueError"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab.", "ValueError"),
        (b"K\x01Q.", "TypeError"),
        (b"r\xff\xff\xff\xff.", "IndexError"),
        (b"K\x01r\xff\xff\xff\xff.", "a single int"),
        (b"N" * 1_000_001 + b".", "longer than 1,000,000 steps"),
    ],
)
def test_a_damaged_or_odd_pickle_is_refused(tmp_path, opcodes, said):
    assert said in refusal(torch_zip(tmp_path / "a.pt", b"\x80\x02" + opcodes, {}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tensor(Storage("FloatStorage", "0", 4), (5,), (1,)), "reaches to byte 20 of 16"),
        (tensor(Storage("FloatStorage", "0", 4), (4,), (1,), 1), "reaches to byte 20 of 16"),
        (tensor(Storage("FloatStorage", "0", 4), (4,), (-1,)), "describe no tensor"),
        (tensor(Storage("FloatStorage", "0", 4), (4,), (1,), -1), "describe no tensor"),
        (tensor(Storage("FloatStorage", "0", 4), (4, 1), (1,)), "describe no tensor"),
        (tensor(Storage("FloatStorage", "0", 5), (4,), (1,)), "holds 16 bytes where 20"),
        (tensor(Storage("FloatStorage", "9", 4), (4,), (1,)), "'archive/data/9': is missing"),
        (tensor(Storage("FloatStorage", "../byteorder", 1), (1,), (1,)), "is missing"),
        (tensor(Storage("FloatStorage", "0", 4), (2**70,), (1,)), "sensible size"),
        (tensor(Storage("FloatStorage", "0", 4), (1.5,), (1,)), "sensible size"),
        (tensor(Storage("QInt8Storage", "0", 4), (4,), (1,)), "asks for torch.QInt8Storage"),
        (Named("torch._utils", "_rebuild_parameter", 3, True, {}), "a parameter that is no tensor"),
        (Named("torch._utils", "_rebuild_tensor_v2", 3, 0, (1,), (1,)), "without a typed storage"),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(tmp_path, content, said):
    assert said in refusal(torch_zip(tmp_path / "a.pt", {"a": content}, {"0": FOUR}))


def test_a_view_that_repeats_few_bytes_without_end_is_refused(tmp_path):
    huge = tensor(Storage("FloatStorage", "0", 4), (2**20, 2**20), (0, 0))
    path = torch_zip(tmp_path / "a.pt", {"a": huge}, {"0": FOUR})
    assert "asks for 4,398,046,511,104 bytes of memory" in refusal(path)


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    path = torch_zip(tmp_path / "a.pt", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", {})
    assert "holds itself" in refusal(path)


def test_a_flipped_bit_in_the_data_is_found_by_the_checksum(tmp_path):
    whole = bytearray((DATA / "torch-plain.pth").read_bytes())
    with zipfile.ZipFile(DATA / "torch-plain.pth") as file:
        info = file.getinfo("torch-plain/data/0")
    whole[info.header_offset + 30 + 100 + len(info.filename)] ^= 1
    (tmp_path / "a.pth").write_bytes(whole)
    assert "does not match its checksum" in refusal(tmp_path / "a.pth")


def test_a_file_saved_without_checksums_is_read_with_a_note(tmp_path):
    whole = bytearray((DATA / "torch-plain.pth").read_bytes())
    with zipfile.ZipFile(DATA / "torch-plain.pth") as file:
        for info in file.infolist():
            whole = bytearray(bytes(whole).replace(struct.pack("<I", info.CRC), bytes(4)))
    (tmp_path / "a.pth").write_bytes(whole)
    weights = read_weights(tmp_path / "a.pth")
    assert_same(weights.tensors, ruled(TORCH_SHAPES))
    assert "no checksums" in weights.notes[0]


@pytest.mark.parametrize("name", ["torch-plain.pth", "torch-legacy.pth"])
def test_a_file_cut_short_is_refused(tmp_path, name):
    whole = (DATA / name).read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / name).write_bytes(whole[:length])
        refusal(tmp_path / name)


def test_a_single_tensor_is_refused(tmp_path):
    one = tensor(Storage("FloatStorage", "0", 4), (4,), (1,))
    path = torch_zip(tmp_path / "a.pt", one, {"0": FOUR})
    assert "holds a single ndarray, not tensors by name" in refusal(path)


def legacy(content, keys, storages):
    magic, version = 0x1950A86A20F9469CFC6C, 1001
    rows = [magic, version, {"little_endian": True}, content, keys]
    data = b"".join(struct.pack("<q", count) + body for count, body in storages)
    return b"".join(map(torch_pickle, rows)) + data


def old_storage(count=4):
    return tensor(OldStorage("FloatStorage", "7", count), (2, 2), (1, 2))


class OldStorage(Storage):
    """The old format's persistent id has a sixth part, the view."""


@pytest.fixture
def old_ids(monkeypatch):
    from tests.weights.readers import samples

    opcodes = samples._opcodes

    def with_view(value):
        if isinstance(value, OldStorage):
            kind = Reference("torch", value.kind)
            return opcodes(("storage", kind, value.key, "cpu", value.count, None)) + b"Q"
        return opcodes(value)

    monkeypatch.setattr(samples, "_opcodes", with_view)


@pytest.mark.parametrize(
    ("keys", "storages", "said"),
    [
        (["7"], [(4, FOUR[:8])], "ends within storage '7'"),
        (["7"], [(3, FOUR)], "has another size than its tensors say"),
        (["8"], [(4, FOUR)], "lists other storages"),
        (["7", "7"], [(4, FOUR)], "lists other storages"),
        (7, [(4, FOUR)], "lists other storages"),
        ([["7"]], [(4, FOUR)], "lists other storages"),
        (Named("os", "system", "true"), [(4, FOUR)], "asks for os.system"),
    ],
)
def test_a_damaged_old_file_is_refused(tmp_path, old_ids, keys, storages, said):
    path = tmp_path / "a.pth"
    path.write_bytes(legacy({"a": old_storage()}, keys, storages))
    assert said in refusal(path)


def test_an_old_file_with_strides_is_read(tmp_path, old_ids):
    path = tmp_path / "a.pth"
    path.write_bytes(legacy({"a": old_storage()}, ["7"], [(4, FOUR)]))
    expected = np.arange(4, dtype=np.float32).reshape(2, 2).T
    assert_same(read_weights(path).tensors, {"a": expected})


def test_an_old_file_that_claims_more_than_it_holds_is_refused(tmp_path, old_ids):
    path = tmp_path / "a.pth"
    path.write_bytes(legacy({"a": old_storage(2**50)}, ["7"], [(2**50, FOUR)]))
    assert "a storage of 1125899906842624 elements" in refusal(path)
