"""The rows of a local text file, one at a time: JSON Lines, a JSON list, or CSV, packed by gzip or not."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hf_reward.errors import DataError


JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
CSV_ENDINGS = (".csv", ".csv.gz")

Row = dict[str, Any]

_CHUNK = 1 << 20
_JSON_EXPECTED = "expected one JSON object per line, or in a .json file one list of objects"
# What a CSV file can only write as text, and the rest of the package reads as numbers.
_NUMBERS = {
    "margin",
    "weight",
    "chosen_probability",
    "preference_strength",
    "overall_preference",
    "helpfulness",
    "tie",
}
_NUMBERS |= {f"{one}{mark}{two}" for one in ("score", "rating") for mark in "_-" for two in ("chosen", "rejected")}
_NUMBERS |= {f"{two}{mark}{one}" for one in ("score", "rating") for mark in "_-" for two in ("chosen", "rejected")}
_TEXTS_OR_MESSAGES = {"prompt", "chosen", "rejected"}
_WORDS = {"true": True, "false": False}


def read_rows(path: Path, keep_bad: bool = False) -> Iterator[tuple[int, Row]]:
    """
    Yields the rows of a file with their numbers: the line in JSON Lines, else the position.

    Args:
        path (`Path`):
            The file.
        keep_bad (`bool`, *optional*, defaults to `False`):
            Whether a line that cannot be read is yielded as a row with the one column `source_error`.

    Raises:
        `DataError`: A line cannot be read, or the file cannot be unpacked.
    """
    try:
        if path.name.endswith(CSV_ENDINGS):
            yield from _csv_rows(path, keep_bad)
            return
        with _opened(path) as file:
            if ".jsonl" not in path.suffixes and _starts_a_list(file):
                yield from _list_rows(file, path.name, keep_bad)
            else:
                yield from _line_rows(file, path.name, keep_bad)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path.name}: cannot be unpacked: {error}. Copy or compress the file again.") from error
    except UnicodeDecodeError as error:  # lines of JSON name theirs
        raise _not_utf8(path.name, error) from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as file:
        yield file if path.suffix != ".gz" else io.BufferedReader(file, _CHUNK)


def _starts_a_list(file: Any) -> bool:
    return bool(file.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[")


def _line_rows(file: IO[bytes], name: str, keep_bad: bool) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if text.strip():
            place = f"{name}, line {number}"
            try:
                yield number, _object(_parsed(text, place), place)
            except DataError as error:
                if not keep_bad:
                    raise
                yield number, {"source_error": str(error)}


def _parsed(line: bytes, place: str) -> Any:
    try:
        text = line.decode("utf-8")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise _not_utf8(place, error) from None
    except (ValueError, RecursionError) as error:
        raise _not_json(place, error, text) from None
    _refuse_surrogates(value, text, place)
    return value


def _list_rows(file: IO[bytes], name: str, keep_bad: bool) -> Iterator[tuple[int, Row]]:
    """The objects of one JSON list, with no more of it in memory than one object and a chunk."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    decoder, number = json.JSONDecoder(), 0
    buffer = text.read(_CHUNK).lstrip().removeprefix("[").lstrip()
    while not buffer.startswith("]"):
        number += 1
        place = f"{name}, row {number}"
        value, buffer = _next_value(decoder, buffer, text, place)
        try:
            _refuse_surrogates(value, "\\ud", place)
            yield number, _object(value, place)
        except DataError as error:
            if not keep_bad:
                raise
            yield number, {"source_error": str(error)}
        buffer = buffer.lstrip() or text.read(_CHUNK).lstrip()
        if not buffer.startswith((",", "]")):
            raise _not_json(place, ValueError("Expecting ',' or ']' after it"), buffer)
        buffer = buffer.removeprefix(",").lstrip() or text.read(_CHUNK).lstrip()


def _next_value(decoder: json.JSONDecoder, buffer: str, text: io.TextIOWrapper, place: str) -> tuple[Any, str]:
    while True:
        try:
            value, end = decoder.raw_decode(buffer)
            return value, buffer[end:]
        except json.JSONDecodeError as error:
            problem = error
            if error.pos < len(buffer) - 64 and not error.msg.startswith("Unterminated"):
                raise _not_json(place, error, buffer) from None
        except RecursionError as error:
            raise _not_json(place, error, buffer) from None
        more = text.read(max(_CHUNK, len(buffer)))
        if not more:
            raise _not_json(place, problem, buffer) from None
        buffer += more


def _csv_rows(path: Path, keep_bad: bool) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(sys.maxsize)
    with _opened(path) as file:
        reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        try:
            for number, row in enumerate(reader, start=1):
                problem = _wrong_count(row, f"{path.name}, row {number}")
                if problem is None:
                    yield number, {column: _cell(column, value) for column, value in row.items()}
                elif keep_bad:
                    yield number, {"source_error": str(problem)}
                else:
                    raise problem
        except csv.Error as error:
            place = f"{path.name}, line {reader.reader.line_num}"
            raise DataError(f"{place}: not CSV: {error} (expected comma-separated values). Correct it.") from None


def _wrong_count(row: dict[Any, Any], place: str) -> DataError | None:
    """The error of a row of CSV that has more or fewer fields than the header."""
    more, fewer = len(row.get(None, ())), sum(value is None for value in row.values())
    if not more and not fewer:
        return None
    columns = len(row) - (None in row)
    return DataError(
        f"{place}: found {columns + more - fewer} fields (expected {columns}, one for each column). Put text with "
        "commas or line breaks in double quotes."
    )


def _cell(column: str, text: str) -> Any:
    """A CSV field: a number or a word where the column has them, JSON where a list or object is meant, else text."""
    if text == "" and column not in _TEXTS_OR_MESSAGES:
        return None
    if column in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            return _WORDS.get(text.lower(), text)
    if not text.startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    messages = [value] if isinstance(value, dict) else value
    plain = not (messages and all(isinstance(item, dict) and {"role", "from"} & item.keys() for item in messages))
    return text if column in _TEXTS_OR_MESSAGES and plain else value


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        kinds = {"list": "a list", "str": "text", "NoneType": "null"}
        raise DataError(
            f"{place}: found {kinds.get(type(value).__name__, type(value).__name__)} (expected a JSON object with the "
            "columns of one pair). Correct the line; a file that is one list of objects must end in .json."
        )
    return value


def _refuse_surrogates(value: Any, text: str, place: str) -> None:
    """An escaped half of a character passes as JSON, but can never be encoded."""
    if "\\u" not in text or "\\ud" not in text.lower():
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        path = _path_of_surrogate(value)
        raise DataError(
            f"{place}: `{path}`: found the lone surrogate {error.object[error.start]!a} (expected text that UTF-8 can "
            "hold). Remove or replace that character."
        ) from None


def _path_of_surrogate(value: Any) -> str:
    """Where in a JSON value the text stands that cannot be encoded, as in `chosen[0].content`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        try:
            json.dumps(item, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            inner = _path_of_surrogate(item)
            here = str(key) if isinstance(value, dict) else f"[{key}]"
            return here + (inner if inner.startswith("[") or not inner else f".{inner}")
    return ""


def _not_utf8(place: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{place}: found the byte 0x{error.object[error.start]:02x} at position {error.start + 1} (expected UTF-8 "
        "text). Save the file as UTF-8."
    )


def _not_json(place: str, error: Exception, text: str) -> DataError:
    shown = text.strip() if len(text.strip()) <= 60 else text.strip()[:57] + "..."
    return DataError(f"{place}: not JSON: {error} in {shown!a} ({_JSON_EXPECTED}). Correct the line.")
