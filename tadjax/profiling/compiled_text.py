"""What a compiled program does, read off its text (`compiled.as_text()`: XLA's HLO, one device's share).

The text is a list of computations, each a list of instructions; a loop's body, a fusion and a branch are computations
that an instruction calls. The compiler's own totals count a loop's body once; here it counts as often as it runs.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|branch_computations|true_computation|false_computation)=(\{[^}]*\}|%?[\w.-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_CHAIN = re.compile(r'\bchannel_id=(\d+).*\bchain_id="(\d+)"')
_NAME = re.compile(r"%([\w.-]+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)[a-z\d]*\[([\d,]*)\](\{[^}]*\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_EXECUTED = {("while", "body"), ("while", "condition"), ("call", "to_apply"), ("async-start", "calls")}


class Array(NamedTuple):
    """One array of an instruction's result, such as bf16[8,2048,88]{2,1,0:T(8,128)(2,1)S(1)}."""

    dtype: str
    dimensions: tuple[int, ...]
    layout: str

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.dimensions)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return self.size * _item_bytes(self.dtype)

    @property
    def space(self) -> int:
        """Where it lies: 0 is the device's memory, 5 the host's, any other a TPU's memories on the chip (1 is VMEM)."""
        found = _SPACE.search(self.layout)
        return int(found[1]) if found else 0

    @property
    def stored_bytes(self) -> int:
        """With the padding of a TPU's tiles: the minor dimensions are rounded up to a multiple of the first tile."""
        tile = _TILE.search(self.layout)
        if not tile:
            return self.bytes
        sides = [int(side) for side in tile[1].split(",")]
        order = self.layout[1:].partition(":")[0]  # minor to major
        major_first = [self.dimensions[int(axis)] for axis in reversed(order.split(",")) if axis]
        padded = [1] * (len(sides) - len(major_first)) + major_first
        for i, side in enumerate(reversed(sides), 1):
            padded[-i] = math.ceil(padded[-i] / side) * side
        return math.prod(padded) * _item_bytes(self.dtype)


class Instruction(NamedTuple):
    """`%name = shape opcode(arguments), attributes`."""

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return _NAME.findall(self.arguments)

    @property
    def arrays(self) -> list[Array]:
        """Its result; of a tuple all that is in it."""
        return [
            Array(dtype, tuple(int(n) for n in dimensions.split(",") if n), layout)
            for dtype, dimensions, layout in _ARRAY.findall(self.shape)
        ]

    @property
    def names_operands(self) -> bool:
        """Whether its result is a tuple of its operands and its result: so for what starts something asynchronous,
        except for an all-reduce."""
        return self.opcode.endswith("-start") and self.shape.startswith("(") and self.opcode != "all-reduce-start"

    def called(self) -> list[tuple[str, str]]:
        """(role, name) of every computation it calls."""
        return [
            (role, name) for role, names in _CALLED.findall(self.attributes) for name in re.findall(r"[\w.-]+", names)
        ]


Computation = dict[str, Instruction]  # by name, in the order of the text


class Program(NamedTuple):
    """entry: the name of the computation that runs."""

    entry: str
    computations: dict[str, Computation]


class Run(NamedTuple):
    """An instruction, the computation it stands in, how often a step runs it, and whether it is inside a fusion (which
    is one kernel: nothing in it goes through the device's memory)."""

    instruction: Instruction
    computation: Computation
    times: float
    fused: bool


def parse(text: str) -> Program:
    """The program of a text."""
    program, computation = Program("", {}), {}
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            computation = program.computations.setdefault(opened[2], {})
            program = program._replace(entry=opened[2]) if opened[1] else program
        elif found := _INSTRUCTION.match(line):
            shape, rest = _split(line[found.end() :])
            opcode, _, rest = rest.partition("(")
            arguments, attributes = _split(f"({rest}")
            computation[found[2]] = Instruction(found[2], shape, opcode, arguments, attributes, bool(found[1]))
    return program


def walk(program: Program) -> Iterator[Run]:
    """Every instruction that a step runs. Of n branches each counts an n-th.

    A loop runs as often as the compiler states; where it does not (for TPUs), as JAX's scans do: from 0 up to the
    constant in its condition. A loop of another kind counts once.

    On a TPU a collective may go on behind other kernels: it then stands in the fusion that starts it, in each that it
    is behind and in the one that ends it, as links of one chain. It is yielded where it starts.
    """

    def visit(name: str, times: float, chains: set[tuple[str, ...]] | None = None) -> Iterator[Run]:
        """chains: within a fusion, those that were met in the computation around it."""
        computation = program.computations.get(name, {})
        fused, met = chains is not None, set() if chains is None else chains
        for instruction in computation.values():
            if fused and (chain := _CHAIN.search(instruction.attributes)):
                if chain.groups() in met:
                    continue
                met.add(chain.groups())
            yield Run(instruction, computation, times, fused)
            called = instruction.called()
            if instruction.opcode == "conditional":
                for _, branch in called:
                    yield from visit(branch, times / len(called), chains)
                continue
            trips = _trips(program, instruction) if instruction.opcode == "while" else 1
            for role, inner in called:
                if (instruction.opcode, role) in _EXECUTED:
                    yield from visit(inner, times * trips, chains)
                elif instruction.opcode == "fusion":
                    yield from visit(inner, times, met)

    return visit(program.entry, 1)


def _trips(program: Program, loop: Instruction) -> int:
    if stated := _TRIPS.search(loop.attributes):
        return int(stated[1])
    condition = program.computations.get(_CONDITION.search(loop.attributes)[1], {})
    limits = [i.arguments for i in condition.values() if i.opcode == "constant" and i.shape.startswith("s32[]")]
    return int(limits[0].strip("()")) if len(limits) == 1 else 1


def _split(text: str) -> tuple[str, str]:
    """A text's first word, or what it holds between its first parentheses, with them; and the rest."""
    if not text.startswith("("):
        word, _, rest = text.partition(" ")
        return word, rest
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return text[: found.end()], text[found.end() :].lstrip()
    return text, ""


def _item_bytes(dtype: str) -> int:
    return 1 if dtype == "pred" else max(1, int(re.search(r"\d+", dtype)[0]) // 8)
