"""What a compiled program sends from device to device."""

import math
from typing import NamedTuple

from tadjax.profiling.compiled_text import Program, Run, walk

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


class Collective(NamedTuple):
    """bytes: of one result on one device. times: how often a step runs it, loops multiplied out."""

    kind: str
    bytes: int
    times: int


def collectives(program: Program) -> list[Collective]:
    """All collectives of a program."""
    return [found for run in walk(program) if (found := collective(run))]


def collective(run: Run) -> Collective | None:
    """The collective that an instruction is, if it is one. An asynchronous one counts where it starts."""
    i = run.instruction
    kind = i.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    sizes = [array.bytes for array in i.arrays]
    return Collective(kind, max(sizes) if i.names_operands else sum(sizes), math.ceil(run.times))


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
