"""Columns of generated rows as Arrow has them: dictionaries, lists, maps and times from numpy arrays.

A changer must know: `sizes` are how many values each row has; its values lie one row's behind the other's.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

TIME: Final = pa.timestamp("ms", "UTC")
SPOTS: Final = pa.list_(pa.struct([("channel", pa.uint8()), ("start_ms", pa.uint32())]))
"""Utterances, as alerts name them."""


def named(numbers: Ints, names: Sequence[str] | pa.Array) -> pa.DictionaryArray:
    """Texts, by their places among `names`."""
    return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(names))


def constant(name: str, rows: int) -> pa.DictionaryArray:
    """The same text in each row."""
    return named(np.zeros(rows, np.int64), [name])


def lists(sizes: Ints, values: pa.Array) -> pa.ListArray:
    """A list a row."""
    return pa.ListArray.from_arrays(pa.array(offsets(sizes), pa.int32()), values)


def maps(sizes: Ints, keys: pa.Array, values: NDArray[Any]) -> pa.MapArray:
    """A map a row."""
    return pa.MapArray.from_arrays(pa.array(offsets(sizes), pa.int32()), keys, pa.array(values))


def nullable(values: NDArray[Any], there: Bools) -> pa.Array:
    """NULL where it is not there."""
    return pa.array(values, mask=~there)


def moments(milliseconds: Ints) -> pa.Array:
    """Times, of Unix milliseconds."""
    return pa.array(milliseconds, pa.int64()).cast(TIME)


def unix_ms(moment: datetime) -> int:
    """Unix milliseconds."""
    return round(moment.timestamp() * 1_000)


def begins_of(sizes: Ints) -> Ints:
    """Where each of the pieces of these sizes begins."""
    return np.cumsum(sizes) - sizes


def ranges(begins: Ints, sizes: Ints) -> Ints:
    """begin, begin + 1, … for each piece, one behind the other."""
    return np.repeat(begins - begins_of(sizes), sizes) + np.arange(sizes.sum())


def offsets(sizes: Ints) -> Ints:
    """Where each piece begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(sizes)])


def small(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, pa.DataType]) -> pa.Table:
    """A table of a few rows; `kinds` of the columns that are not text."""
    if not rows:
        return pa.table({})
    return pa.table({name: pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in rows[0]})
