"""Damage to files: to their bytes, and to what JSON says. Drawn by hypothesis: failures shrink to one edit."""

from typing import Any

from hypothesis import strategies as st

BLOCK = 16  # bytes that some edits touch

BYTE_EDITS = {
    "flip": lambda c, at, value: c[:at] + bytes([c[at] ^ value]) + c[at + 1 :],
    "cut": lambda c, at, value: c[:at],
    "zero": lambda c, at, value: c[:at] + bytes(len(c[at : at + BLOCK])) + c[at + BLOCK :],
    "swap": lambda c, at, value: c[:at] + c[at + BLOCK : at + 2 * BLOCK] + c[at : at + BLOCK] + c[at + 2 * BLOCK :],
    "drop": lambda c, at, value: c[:at] + c[at + value :],
    "repeat": lambda c, at, value: c[: at + value] + c[at:],
    "noise": lambda c, at, value: c[:at] + bytes((value * 167 + i * 91) % 256 for i in range(BLOCK)) + c[at + BLOCK :],
}
BYTES = st.lists(
    st.tuples(st.sampled_from(sorted(BYTE_EDITS)), st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
    min_size=1,
    max_size=4,
)

NAN = float("nan")
JUNK = (None, True, 0, -1, 7, 1e-320, 1e308, 10**400, NAN, -1 / 1e-320, "", "9", "x", "12", "../../x", "a\n\0b", [], {})
JUNK += ([[]], [1, 2], [2, 1], ["1", "2"], [1, None], {"a": 1}, {"1": 1, "2": 2}, [None], [{}], "NaN")
VALUES = st.lists(st.tuples(st.lists(st.integers(0, 40), max_size=6), st.sampled_from(JUNK)), min_size=1, max_size=2)


def damaged_bytes(content: bytes, edits: list[tuple[str, float, int]]) -> bytes:
    """`content` after each edit (kind, where as a share of the length, a value that the kind uses)."""
    for kind, place, value in edits:
        if content:
            content = BYTE_EDITS[kind](content, int(place * len(content)), value)
    return content


def damaged_json(tree: Any, path: list[int], junk: Any) -> Any:
    """A copy of a JSON value with `junk` in the place that `path` leads to, each number a child (modulo how many)."""
    if not path or not isinstance(tree, (dict, list)) or not tree:
        return junk
    key = (list(tree) if isinstance(tree, dict) else range(len(tree)))[path[0] % len(tree)]
    copy = tree.copy()
    copy[key] = damaged_json(tree[key], path[1:], junk)
    return copy
