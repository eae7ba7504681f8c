"""Files that a command writes and its user may edit: an edited one is kept, and the new one written beside it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from tadjax.errors import DataError
from tadjax.files import read_json, write_whole

RECORD = "prepared.json"  # beside them: hashes of all that was written


def write_unless_edited(folder: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """Writes texts by file name into a folder; returns a line for each file, by name, that was edited and is kept.

    Edited is what the folder's record does not know. NAME.new.EXTENSION then holds what would have been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    written = read_json(record) if record.exists() else []
    if not isinstance(written, list):
        raise DataError(f"{record}: is no list of hashes; remove it, and what is there counts as edited")
    lines = {}
    for name, text in texts.items():
        path = folder / name
        beside = path.with_name(f"{path.stem}.new{path.suffix}")
        old = path.read_bytes() if path.is_file() else None
        new = text.encode()
        if old is None or old == new or _digest(old) in written:
            write_whole(path, new)
            beside.unlink(missing_ok=True)
        else:
            write_whole(beside, new)
            lines[name] = f"{path} was edited, and is kept; {beside} is what would be written now"
        written = list(dict.fromkeys([*written, _digest(new)]))
    write_whole(record, json.dumps(written, indent=1) + "\n")
    return lines


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
