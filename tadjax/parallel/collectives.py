"""What a compiled program sends from device to device, read off its text."""

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(body|condition|calls|to_apply|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r" while\(.*condition=%?([\w.-]+)")
_LIMIT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)[a-z\d]*\[([\d,]*)\]")


class Collective(NamedTuple):
    """bytes: of one result on one device. times: how often a step runs it, loops multiplied out."""

    kind: str
    bytes: int
    times: int


def collectives(text: str) -> list[Collective]:
    """All collectives of a program, from `compiled.as_text()`.

    A loop runs as often as the compiler states; where it does not (for TPUs), as JAX's scans do: from 0 up to the
    constant in its condition. A loop of another kind counts once.
    """
    entry, lines = "", defaultdict(list)
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            name = opened[2]
            entry = name if opened[1] else entry
        elif line.startswith("  "):
            lines[name].append(line)
    found: list[Collective] = []

    def trips(line: str) -> int:
        if stated := _TRIPS.search(line):
            return int(stated[1])
        condition = _CONDITION.search(line)
        limits = _LIMIT.findall("\n".join(lines[condition[1]])) if condition else []
        return int(limits[0]) if len(limits) == 1 else 1

    def visit(computation: str, times: int) -> None:
        for line in lines[computation]:
            if match := _COLLECTIVE.search(line):
                found.append(Collective(match[2], _result_bytes(match[1], match[2], bool(match[3])), times))
            for role, names in _CALLED.findall(line):
                loops = trips(line) if role == "body" else 1
                for called in re.findall(r"[\w.-]+", names):
                    visit(called, times * loops)

    visit(entry, 1)
    return found


def totals(found: list[Collective]) -> dict[str, dict[str, int]]:
    """{kind: {"count": how many a step, "bytes": of their results on one device}}."""
    return {
        kind: {
            "count": sum(c.times for c in found if c.kind == kind),
            "bytes": sum(c.times * c.bytes for c in found if c.kind == kind),
        }
        for kind in KINDS
        if any(c.kind == kind for c in found)
    }


def _result_bytes(shape: str, kind: str, asynchronous: bool) -> int:
    """Of a shape such as f32[2,48]{1,0}, or a tuple of them. An asynchronous start's tuple holds operand and result."""
    sizes = [
        _bits(dtype) // 8 * math.prod(int(n) for n in dimensions.split(",") if n)
        for dtype, dimensions in _ARRAY.findall(shape)
    ]
    if asynchronous and kind != "all-reduce":
        return max(sizes)
    return sum(sizes)


def _bits(dtype: str) -> int:
    return 8 if dtype == "pred" else max(8, int(re.search(r"\d+", dtype)[0]))
