"""Files that are written whole or not at all, and JSON that is read whole or not at all. Standard library only."""

import contextlib
import gzip
import json
import os
import pathlib
import zlib
from typing import Any

from tadjax.errors import DataError


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file beside its place and renames it: a reader finds the old content or all of the new one.

    What is no regular file (/dev/stdout, a pipe) is written to as it is.
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
        error.filename = os.fspath(path)  # which a full disk does not tell
        raise


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
