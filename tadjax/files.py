"""Files that are written whole or not at all, text and JSON that are read so, marks that tell whether a file changed,
and `~`. Standard library only."""

import codecs
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import zlib
from typing import Any

from tadjax.errors import DataError, WriteError


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file beside its place and renames it: a reader finds the old content or all of the new one.

    What is no regular file (/dev/stdout, a pipe) is written to as it is. Raises WriteError.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():  # /dev/stdout is written to, and not replaced
            path.write_bytes(data)
            return
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise WriteError(error.errno, error.strerror, os.fspath(path)) from error  # a full disk tells no name


ENDS = 4096  # bytes at either end of a file that its mark depends on


def mark_of(path: str | os.PathLike[str]) -> str:
    """A short text that changes with a file: its size, its time, and its first and last bytes. Raises OSError.

    What is made of a file carries its mark, and is made anew where the file has another one.
    """
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        ends = file.read(ENDS)
        file.seek(max(0, stat.st_size - ENDS))
        ends += file.read(ENDS)
    return f"{stat.st_size}-{stat.st_mtime_ns}-{hashlib.sha256(ends).hexdigest()[:16]}"


MARKS = {  # byte order marks; that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(
    path: str | os.PathLike[str], what: str = "file", encoding: str = "", cure: str = "save it as UTF-8"
) -> str:
    """The text of a file: UTF-8, or what its byte order mark says (Notepad's "Unicode" is UTF-16), or `encoding`.

    Line ends stay as they are. Raises DataError where it cannot be read, naming the line that is not so encoded.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the {what} cannot be read: {error.strerror}") from error
    try:
        encoding = encoding or next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
        text = data.decode(encoding)
    except (UnicodeError, LookupError) as error:
        place = f", line {data[: error.start].count(10) + 1}" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{path}{place}: not {encoding.upper()} text ({error}); {cure}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}, line {line}: holds zero bytes, as UTF-16 without a mark does; {cure}")
    return text


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a .json or .json.gz file; DataError where it is missing, not JSON, or gives a key twice."""
    try:
        data = pathlib.Path(path).read_bytes()
        text = gzip.decompress(data) if str(path).endswith(".gz") else data
        return json.loads(text, object_pairs_hook=_no_repeated_keys)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError, zlib.error, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from None


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key given twice would silently hide the first value: of a video listed twice, half of what is said of it."""
    entry = dict(pairs)
    if len(entry) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice in one object")
    return entry
