"""Columns: rows as Arrow tables and back. What a store keeps of a row, its types, conditions on whole columns."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec

from bench.analyze.row import Row
from bench.analyze.where import Condition, refuse_unknown
from bench.errors import not_installed

# Texts repeat: they are stored once and referred to. Flags are one text, parameters one JSON object.
TEXTS = (
    "file", "session", "started", "date", "device", "vendor", "chip", "machine", "host", "workload", "case", "dtype",
    "launch", "cache", "duty", "data", "status", "reason", "rate_unit", "energy_method", "energy_boundary", "flags",
    "torch", "driver", "accelmark", "params",
)  # fmt: skip
COUNTS = ("version", "rounds", "threads", "method", "peak_memory_bytes")
NUMBERS = (
    "step_s", "spread", "rate", "tokens_per_s", "flops_per_s", "bytes_per_s", "of_measured", "of_datasheet",
    "mfu_of_datasheet", "hfu_of_datasheet", "mfu_of_measured", "hfu_of_measured", "power_w", "energy_per_step_j",
    "net_energy_per_step_j", "energy_per_token_j", "tokens_per_joule", "energy_uncertainty", "power_limit_w",
    "power_limit_default_w", "power_limit_share", "clock_hz", "temperature_c", "power_limited", "thermally_limited",
)  # fmt: skip
NAMES = (*TEXTS, *COUNTS, *NUMBERS)
_NAMED = {
    "=": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal",
}  # fmt: skip
FILE = "file_number"  # of the version of the file that a row is from; see bench/analyze/cache/manifest.py
# Rows that are skipped or read together: a tenth of those of a part, so mostly of one workload or two.
GROUP_ROWS = 3000


def library() -> Any:
    """Pyarrow with what is used of it. Raises UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.json
        import pyarrow.parquet
    except ImportError:
        raise not_installed("pyarrow", "pandas", "pyarrow") from None
    return pyarrow


def schema() -> Any:
    """Of a part of the store."""
    arrow = library()
    text = arrow.dictionary(arrow.int32(), arrow.string())
    kinds = [(name, text) for name in TEXTS] + [(name, arrow.int64()) for name in COUNTS]
    return arrow.schema([*kinds, *((name, arrow.float64()) for name in NUMBERS), (FILE, arrow.int64())])


def line(row: Row, number: int) -> bytes:
    """A brief row, its parameters as `params`, as it waits to become part of a table: a tenth of the row's memory."""
    return msgspec.json.encode({**row, "flags": " ".join(row["flags"]), FILE: number})


def table(lines: list[bytes]) -> Any:
    """Lines as an Arrow table. As JSON: to make an array of Python's values pyarrow imports pandas, half a second."""
    arrow, wanted = library(), schema()
    plain = arrow.schema([(one.name, arrow.string() if one.name in TEXTS else one.type) for one in wanted])
    options = arrow.json.ParseOptions(explicit_schema=plain, unexpected_field_behavior="ignore")
    found = arrow.json.read_json(io.BytesIO(b"\n".join(lines)), arrow.json.ReadOptions(use_threads=False), options)
    found = found.select(wanted.names).combine_chunks()
    made = [found[name].dictionary_encode() if name in TEXTS else found[name] for name in wanted.names]
    return arrow.Table.from_arrays(made, schema=wanted)


def write(parts: list[Any], path: Path) -> None:
    """Tables as one Parquet file, by workload and then as they stand: what is asked for of one is a few row groups."""
    import numpy

    arrow = library()
    whole = arrow.concat_tables(parts).unify_dictionaries()
    codes, texts = coded(whole["workload"])
    ordered = sorted(texts, key=str)
    order = numpy.argsort(numpy.array([ordered.index(text) for text in texts])[codes], kind="stable")
    with arrow.parquet.ParquetWriter(path, whole.schema, compression="zstd") as writer:
        for start in range(0, len(order), GROUP_ROWS):
            writer.write_table(whole.take(of_numpy(order[start : start + GROUP_ROWS])))


def rows(stored: Any) -> list[Row]:
    """An Arrow table as rows, parameters as columns of their own."""
    columns = {name: _values(stored[name]) for name in stored.column_names if name != FILE}
    if "flags" in columns:
        columns["flags"] = [value.split() if value else [] for value in columns["flags"]]
    params = [json.loads(text) for text in columns.pop("params", [])]
    made = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row, own in zip(made, params, strict=False):
        row |= {name: value for name, value in own.items() if name not in row}
    return made


def _values(column: Any) -> list[Any]:
    """A column as Python's values. Of texts each distinct one is made once: a tenth of `to_pylist`'s time."""
    if not library().types.is_dictionary(column.type):
        return list(column.to_pylist())
    codes, texts = coded(column)
    return [texts[code] for code in codes.tolist()]


def of_rows(made: list[Row]) -> Any:
    """Any rows as an Arrow table. What is a list or an object, or of several types in one column, becomes text."""
    arrow = library()
    names = dict.fromkeys(name for row in made for name in row)
    return arrow.table({name: _array([row.get(name) for row in made]) for name in names})


def expanded(stored: Any) -> Any:
    """A stored table with each parameter as a column of its own."""
    arrow = library()
    codes, texts = coded(stored["params"])
    known = [json.loads(text) if text is not None else {} for text in texts]
    found, places = stored.drop_columns(["params"]), arrow.array(codes)
    for name in dict.fromkeys(key for one in known for key in one if key not in NAMES):
        found = found.append_column(name, _array([one.get(name) for one in known]).take(places))
    return found


def _array(values: list[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if kinds - {bool, int, float, str} or len(kinds - {int} if float in kinds else kinds) > 1:
        values = [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
    elif kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    return library().array(values)


def coded(column: Any) -> tuple[Any, list[str | None]]:
    """A column of texts as a NumPy array of places in a list of the distinct ones; None is the last of the list."""
    import numpy

    parts = column.unify_dictionaries().chunks
    values = parts[0].dictionary.to_pylist() if parts else []
    whole = library().chunked_array([part.indices for part in parts], library().int32())
    codes = numpy.nan_to_num(to_numpy(whole), nan=len(values)).astype(numpy.int64)
    return codes, [*values, None]


def of_numpy(values: Any) -> Any:
    """A NumPy array of int64 or bool as an Arrow array, without pandas (as `table`)."""
    import numpy

    arrow, number = library(), len(values)
    kind, content = arrow.int64(), values
    if values.dtype == bool:
        kind, content = arrow.bool_(), numpy.packbits(values, bitorder="little")
    return arrow.Array.from_buffers(kind, number, [None, arrow.py_buffer(numpy.ascontiguousarray(content))])


def to_numpy(column: Any) -> Any:
    """A column of numbers as a NumPy array, what is unknown as NaN; without pandas (as `table`)."""
    import numpy

    if not len(column):
        return numpy.empty(0)
    whole = column.combine_chunks()
    known, content = whole.buffers()
    part = slice(whole.offset, whole.offset + len(whole))
    values = numpy.frombuffer(content, {"double": "f8", "int64": "i8", "int32": "i4"}[str(whole.type)])[part]
    if not whole.null_count:
        return values
    bits = numpy.unpackbits(numpy.frombuffer(known, numpy.uint8), bitorder="little")[part]
    return numpy.where(bits == 1, values, numpy.nan)


def among(column: Any, wanted: list[int]) -> Any:
    """Which numbers of a column are wanted."""
    import numpy

    return of_numpy(numpy.isin(to_numpy(column), wanted))


def mask(stored: Any, condition: Condition) -> Any:
    """Which rows of an Arrow table a condition holds for, by the rules of `Condition.holds`. Raises UserError."""
    import numpy

    if condition.field in (*COUNTS, *NUMBERS) and condition.sign != "~":
        column = stored[condition.field]
        if condition.text == "None" and condition.sign in {"=", "!="}:
            return column.is_null() if condition.sign == "=" else column.is_valid()
        # What is unknown is NaN: it equals nothing, and is neither less nor greater.
        return of_numpy(getattr(numpy, _NAMED[condition.sign])(to_numpy(column), condition.number))
    if condition.field in (*COUNTS, *NUMBERS):
        values = stored[condition.field].to_pylist()
        return of_numpy(numpy.array([condition.holds(value) for value in values], dtype=bool))
    codes, texts = coded(stored[condition.field if condition.field in TEXTS else "params"])
    known: list[Any] = list(texts)
    if condition.field == "flags":
        known = [text.split() if text is not None else [] for text in texts]
    elif condition.field not in TEXTS:  # a parameter
        parsed = [json.loads(text) if text is not None else {} for text in texts]
        refuse_unknown(condition.field, dict.fromkeys([*NAMES, *(key for one in parsed for key in one)]))
        known = [one.get(condition.field) for one in parsed]
    return of_numpy(numpy.array([condition.holds(value) for value in known], dtype=bool)[codes])
