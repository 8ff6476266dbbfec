"""ClickHouse's format Native as newer clients want it, and the frames of ClickHouse's own compression.

chDB writes Native as of revision 0. A client that sends `client_protocol_version` of 54454 or more (clickhouse-go, so
Grafana's plugin) expects two things more: 8 bytes of block info before each block, and a byte behind the type of each
column that says whether its serialization is a custom one. `at_revision` puts them in; for that it must find where each
column ends, and so it knows how each type is laid out (clickhouse-connect parses the types' names).

A changer must know: at revision 0 ClickHouse leaves the time zone out of a column's type `DateTime('…')`; the instants
are the same, the client shows them in the server's zone, UTC. Types whose end cannot be told without reading them
(AggregateFunction, Dynamic, JSON, Variant) raise NoEnd.
"""

import struct
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from clickhouse_cityhash.cityhash import CityHash128
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver.exceptions import ClickHouseError

CUSTOM_SERIALIZATION = 54454
"""DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION of ClickHouse's ProtocolDefines.h."""

ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
"""The module for Zstandard: clickhouse-connect brings it where Python has none."""

_BLOCK_INFO = bytes.fromhex("01 00 02 ffffffff 00")
"""Field 1, is_overflows: no; field 2, bucket_num: -1; the end. What a block has that is not part of an aggregation."""

_KEYS_FOLLOW = 1 << 9
"""Flag of a LowCardinality column: its dictionary is in the block."""

_HEAD = struct.Struct("<16sBII")
_METHOD_NONE, _METHOD_LZ4, _METHOD_ZSTD = 0x02, 0x82, 0x90
_LARGEST = 1 << 20
"""Uncompressed bytes a frame we write: ClickHouse's max_compress_block_size."""

_LARGEST_READ = 1 << 30
"""Uncompressed bytes a frame we read: DBMS_MAX_COMPRESSED_SIZE of ClickHouse."""


class NoEnd(Exception):
    """A column's end cannot be found: `column`, `type`."""

    def __init__(self, column: str, type_name: str) -> None:
        self.column, self.type = column, type_name
        super().__init__(f"column {column} of type {type_name}")


class BadFrame(ValueError):
    """Bytes that are no frames of ClickHouse's compression."""


def at_revision(blocks: bytes) -> bytes:
    """Whole blocks of revision 0 as a client of CUSTOM_SERIALIZATION or newer reads them. Raises NoEnd."""
    pieces: list[bytes | memoryview] = []
    data, at = memoryview(blocks), 0
    while at < len(blocks):
        pieces.append(_BLOCK_INFO)
        start = at
        columns, at = _number(blocks, at)
        rows, at = _number(blocks, at)
        for _ in range(columns):
            name, at = _string(blocks, at)
            type_name, at = _string(blocks, at)
            pieces += (data[start:at], b"\0")
            start = at
            if rows:
                try:
                    column = get_from_name(type_name)
                    at = _end(column, blocks, at + _prefix(column), rows)
                except (NotImplementedError, ClickHouseError, AttributeError) as error:
                    raise NoEnd(name, type_name) from error
        pieces.append(data[start:at])
    return b"".join(pieces)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number at `at`, and where it ends."""
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
    return value | byte << shift, at + 1


def _string(data: bytes, at: int) -> tuple[str, int]:
    length, at = _number(data, at)
    return data[at : at + length].decode(errors="replace"), at + length


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


@cache
def _prefix(column: Any) -> int:
    """Bytes before a column's data: a version for each LowCardinality in it."""
    return 8 if column.low_card else sum(_prefix(part) for part in _parts(column))


def _parts(column: Any) -> list[Any]:
    """The columns inside a ClickHouseType of clickhouse-connect."""
    match column.base_type:
        case "Array" | "SimpleAggregateFunction":
            return [column.element_type]
        case "Map":
            return [column.key_type, column.value_type]
        case "Tuple" | "Nested":
            return list(column.element_types)
        case _:
            return []


def _end(column: Any, data: bytes, at: int, rows: int) -> int:
    """Where `rows` values of `column` that begin at `at` end."""
    if column.low_card:
        if not rows:
            return at
        flags = _word(data, at)
        at += 8
        if flags & _KEYS_FOLLOW:
            at = _bare_end(column, data, at + 8, _word(data, at))
        return at + 8 + (rows << (flags & 0xFF))
    if column.nullable:
        at += rows
    return _bare_end(column, data, at, rows)


def _bare_end(column: Any, data: bytes, at: int, rows: int) -> int:
    """The same without the wrappers LowCardinality and Nullable."""
    match column.base_type:
        case "String":
            for _ in range(rows):
                length = data[at]
                at += 1
                if length > 127:
                    length, at = _number(data, at - 1)
                at += length
            return at
        case "SimpleAggregateFunction":
            return _end(column.element_type, data, at, rows)
        case "Tuple" if not column.element_types:
            return at + rows
        case "Tuple":
            for part in column.element_types:
                at = _end(part, data, at, rows)
            return at
        case "Array" | "Map" | "Nested":
            inside = _word(data, at + 8 * (rows - 1)) if rows else 0
            at += 8 * rows
            for part in _parts(column):
                at = _end(part, data, at, inside)
            return at
    if not column.byte_size:
        raise NotImplementedError(column.name)
    return at + rows * column.byte_size


def frames(data: bytes) -> Iterator[bytes]:
    """`data` in frames: CityHash128, method (Zstandard), sizes with and without compression, compressed bytes."""
    compress = import_module(ZSTD).compress
    for start in range(0, len(data), _LARGEST):
        part = data[start : start + _LARGEST]
        packed = compress(part, level=1)
        body = struct.pack("<BII", _METHOD_ZSTD, len(packed) + 9, len(part)) + packed
        yield _checksum(body) + body


def unframed(data: bytes) -> bytes:
    """What frames of any method hold. Raises BadFrame: not a frame, cut off, or its checksum is another."""
    parts, at = [], 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise BadFrame("a frame is cut off")
        checksum, method, size, whole = _HEAD.unpack_from(data, at)
        body = data[at + 16 : at + 16 + size]
        if len(body) < max(size, 9) or whole > _LARGEST_READ:
            raise BadFrame("a frame is cut off, or this is none")
        if _checksum(body) != checksum:
            raise BadFrame("the checksum of a frame is another one")
        parts.append(_unpacked(method, body[9:], whole))
        at += 16 + size
    return b"".join(parts)


def _checksum(body: bytes) -> bytes:
    number = CityHash128(body)
    return struct.pack("<QQ", number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF)


def _unpacked(method: int, packed: bytes, size: int) -> bytes:
    try:
        if method == _METHOD_LZ4:
            found = import_module("lz4.block").decompress(packed, uncompressed_size=size)
        elif method == _METHOD_ZSTD:
            found = import_module(ZSTD).decompress(packed)
        elif method == _METHOD_NONE:
            found = packed
        else:
            raise BadFrame(f"method 0x{method:02x} is not known")
    except Exception as error:  # each decompressor has errors of its own
        raise BadFrame(str(error)) from error
    if len(found) != size:
        raise BadFrame("a frame holds less or more than it says")
    return found
