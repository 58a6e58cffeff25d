"""Zip files as weight formats use them: members as bytes, checked against bombs and damage."""

import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import map_file
from jtl.weights.readers.weight_file import check_expansion

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END_RECORD = struct.Struct("<4s4H2IH")
_LONGEST_COMMENT = 2**16
# Each entry of the directory costs ten times its bytes once parsed; weights need few entries.
_LONGEST_DIRECTORY = 16 * 2**20
_ENCRYPTED = 0x1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip file whose directory has been checked.

    Attributes:
        path: the file.
        data: the whole file, mapped, uint8 `[bytes]`.
        members: the directory by member name, in the file's order; folders left out.
    """

    path: Path
    data: np.ndarray
    members: Mapping[str, zipfile.ZipInfo]

    @property
    def has_checksums(self) -> bool:
        """Whether any member has one; torch can be told to write zeros instead."""
        return any(info.CRC for info in self.members.values())

    def read(self, name: str) -> np.ndarray:
        """One member's bytes, uint8 `[bytes]`: a view of the file if stored, else unpacked.

        Raises:
            WeightsError: the member is damaged or packed in a way that weights never are.
        """
        info = self.members[name]
        packed = self.data[slice(*_span(self, info))]
        content = (
            packed if info.compress_type == zipfile.ZIP_STORED else _inflate(self, info, packed)
        )
        if content.nbytes != info.file_size or (
            self.has_checksums and zlib.crc32(content.data) != info.CRC
        ):
            raise WeightsError(
                f"{self.path}: member {name!r} does not match its checksum; the file is damaged, "
                "fetch or save it again."
            )
        return content


def open_archive(path: Path) -> Archive:
    """Opens a zip file and checks its directory; no member is read yet.

    Raises:
        WeightsError: the directory is damaged, members share bytes, or together they unpack to
            far more than the file holds.
    """
    data = map_file(path)
    _check_directory_size(path, data)
    try:
        with zipfile.ZipFile(path) as file:
            infos = [info for info in file.infolist() if not info.is_dir()]
    # zipfile raises whatever its parsing stumbles over; each means that the directory is damaged.
    except Exception as error:
        raise _damaged(path, f"its zip directory cannot be read ({error})") from error
    members = {info.filename: info for info in infos}
    if len(members) < len(infos):
        raise _damaged(path, "its zip directory lists a member twice")
    check_expansion(str(path), data.nbytes, sum(info.file_size for info in infos))
    archive = Archive(path=path, data=data, members=members)
    _check_overlap(archive)
    return archive


def _check_directory_size(path: Path, data: np.ndarray) -> None:
    tail = data[-(_END_RECORD.size + _LONGEST_COMMENT) :].tobytes()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END_RECORD.size:
        raise _damaged(path, "the end of its zip directory is missing, as after a broken transfer")
    size = _END_RECORD.unpack_from(tail, place)[5]
    # 0xFFFFFFFF stands for a size in the 64-bit record, needed only by directories of 4 GiB.
    if size > _LONGEST_DIRECTORY and (size != 2**32 - 1 or data.nbytes > _LONGEST_DIRECTORY):
        size = _directory_size_64(data.nbytes, tail, place) if size == 2**32 - 1 else size
        if size > _LONGEST_DIRECTORY:
            raise _damaged(path, f"its zip directory claims {size:,} bytes")


def _directory_size_64(stored: int, tail: bytes, end: int) -> int:
    """The directory's size by the 64-bit record, or the file's size where that is missing."""
    record = tail.rfind(b"PK\x06\x06", 0, end)
    if record < 0 or len(tail) - record < 48:
        return stored
    return int.from_bytes(tail[record + 40 : record + 48], "little")


def _span(archive: Archive, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a member's packed bytes begin and end in the file."""
    path, data, start = archive.path, archive.data, info.header_offset
    head = data[max(start, 0) : max(start, 0) + _LOCAL_HEADER.size].tobytes()
    if start < 0 or len(head) < _LOCAL_HEADER.size or not head.startswith(b"PK\x03\x04"):
        raise _damaged(path, f"member {info.filename!r} is not where its zip directory says")
    name_length, extra_length = _LOCAL_HEADER.unpack(head)[-2:]
    begin = start + _LOCAL_HEADER.size + name_length + extra_length
    end = begin + info.compress_size
    if end > data.nbytes:
        raise _damaged(path, f"member {info.filename!r} reaches beyond the end of the file")
    return begin, end


def _check_overlap(archive: Archive) -> None:
    place, before = 0, "the start"
    for info in sorted(archive.members.values(), key=lambda info: info.header_offset):
        if info.flag_bits & _ENCRYPTED:
            raise WeightsError(
                f"{archive.path}: member {info.filename!r} is encrypted; "
                "save it without a password."
            )
        _, end = _span(archive, info)
        if info.header_offset < place:
            raise _damaged(archive.path, f"members {before!r} and {info.filename!r} overlap")
        place, before = end, info.filename


def _inflate(archive: Archive, info: zipfile.ZipInfo, packed: np.ndarray) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise WeightsError(
            f"{archive.path}: member {info.filename!r} is packed with zip method "
            f"{info.compress_type}; readable are stored and deflated, so pack it again."
        )
    try:
        # One byte more than claimed is enough to see that the claim is false.
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed.data, info.file_size + 1)
    except zlib.error as error:
        raise _damaged(archive.path, f"member {info.filename!r} cannot be unpacked") from error
    return np.frombuffer(content, np.uint8)


def _damaged(path: Path, found: str) -> WeightsError:
    return WeightsError(f"{path}: {found}; fetch or save it again.")
