"""The least time a compiled step can take on one chip, and what sets it: operations, memory or network.

The roofline model (Williams, Waterman, Patterson 2009): each of the three is what the program asks for divided by what
the chip does a second, and the step takes the longest of them, as if all overlapped perfectly. What is counted:

operations  of matrix products and convolutions, 2 for a multiply-add, and of the attention kernels of TPUs (splash) and
            GPUs (cuDNN), whose backward pass computes the scores again; nothing element-wise
memory      what every kernel reads from and writes to the device's memory, each operand once, a slice of an array as
            the slice; nothing inside a fused kernel, and nothing that stays in a TPU's memory on the chip
network     what every collective sends
"""

import math
import re
from typing import Any, NamedTuple

from tadjax.profiling.collectives import collective
from tadjax.profiling.compiled_text import Array, Computation, Instruction, Program, Run, walk

BOUNDS = ("operations", "memory", "network")

_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_CONTRACTED = re.compile(r'\blhs_contracting_dim(?:s=\{|ensions":\[)([^\]}]*)')  # of a dot, of a cuBLAS call
_SCORES = re.compile(r'"intermediate_tensor_shape".*?"dimensions": *\[([^\]]*)\]')
_TARGET = re.compile(r'\bcustom_call_target="([^"]*)"')
# Matrix products as large as the scores in an attention kernel, by how its name (splash) or target (cuDNN) starts. The
# backward pass makes the scores again, then the gradients of values, probabilities, queries and keys.
_ATTENTION = {"splash_mha_fwd": 2, "splash_mha_dkv": 5, "__cudnn$fmhaSoftmaxBackward": 5, "__cudnn$fmhaSoftmax": 2}
# cuDNN describes a convolution's gradients as the convolution: which of (left, right, result) are its input, kernel and
# output.
_GRADIENTS = {"__cudnn$convBackwardInput": (2, 1, 0), "__cudnn$convBackwardFilter": (0, 2, 1)}

# Nothing moves for these: they name, group or wait for what others move.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id"),
    *("while", "conditional", "call", "async-start", "async-update"),
}
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound"}
_SLICES = {"slice", "dynamic-slice", "gather", "slice-start"}
_LIBRARIES = ("__cublas", "__cudnn")  # their last result is scratch space


class Kernel(NamedTuple):
    """What a chip runs at once: a fusion with all that is in it, or an instruction by itself. times: a step."""

    times: float
    operations: int
    memory_bytes: int
    sent_bytes: int
    waits: bool  # False for what only starts, and goes on while other kernels run


class Work(NamedTuple):
    """What one chip does in a step."""

    kernels: list[Kernel]

    @property
    def operations(self) -> int:
        return round(sum(k.times * k.operations for k in self.kernels))

    @property
    def memory_bytes(self) -> int:
        return round(sum(k.times * k.memory_bytes for k in self.kernels))

    @property
    def sent_bytes(self) -> int:
        return round(sum(k.times * k.sent_bytes for k in self.kernels))


def work(program: Program) -> Work:
    """Of a compiled program (tadjax/profiling/compiled_text.py)."""
    kernels: list[Kernel] = []
    for run in walk(program):
        operations = operations_of(run)
        if run.fused:  # what is in a fusion follows it
            around = kernels[-1]
            operations, sent = around.operations + operations, around.sent_bytes + sent_by(run)
            kernels[-1] = around._replace(operations=operations, sent_bytes=sent)
            continue
        waits = not run.instruction.opcode.endswith("-start")
        kernels.append(Kernel(run.times, operations, traffic_of(run, program), sent_by(run), waits))
    return Work([kernel for kernel in kernels if any(kernel[1:4])])


def roofline(done: Work, peak_flops: float, bandwidth: float, network: float) -> dict[str, Any]:
    """Seconds of a step with the chip at its peak (operations, bytes, bytes a second): of each of the three, of the
    longest of them, which that is, and kernel_by_kernel_seconds.

    The last is what is left to reach by this program: kernels run one after the other, each as long as the longest of
    its own three; what only starts (a prefetch) costs nothing, as if it always were ready when it is waited for.
    """
    seconds = [done.operations / peak_flops, done.memory_bytes / bandwidth, done.sent_bytes / network]
    longest = max(seconds)
    one_by_one = sum(
        k.times * max(k.operations / peak_flops, k.memory_bytes / bandwidth, k.sent_bytes / network)
        for k in done.kernels
        if k.waits
    )
    named = {f"{bound}_seconds": value for bound, value in zip(BOUNDS, seconds, strict=True)}
    bound = BOUNDS[seconds.index(longest)]
    return {"seconds": longest, "bound_by": bound, **named, "kernel_by_kernel_seconds": one_by_one}


def operations_of(run: Run) -> int:
    """Of one instruction: 2 x elements of the result x elements contracted for each."""
    i, target = run.instruction, _target(run.instruction)
    if i.opcode not in ("dot", "convolution", "custom-call") or not i.operands:
        return 0
    arrays = [*(run.computation[name].arrays[0] for name in i.operands), i.arrays[0]]
    for kernel, products in _ATTENTION.items():
        if target.startswith(kernel) or (target == "tpu_custom_call" and i.name.startswith(kernel)):
            return products * _scores(i, arrays)
    if contracted := _CONTRACTED.search(i.attributes):
        axes = re.findall(r"\d+", contracted[1])
        return 2 * i.arrays[0].size * math.prod(arrays[0].dimensions[int(axis)] for axis in axes)
    if i.opcode == "convolution" or target.startswith("__cudnn$conv"):
        order = _GRADIENTS.get(target, (0, 1, 2))
        left, right = arrays[:2]
        return _convolution(i.attributes, *((left, right, i.arrays[0])[n] for n in order))
    return 0


def traffic_of(run: Run, program: Program) -> int:
    """Bytes that one instruction reads from the device's memory and writes to it, a fusion as a whole."""
    i = run.instruction
    target = _target(i) if i.opcode == "custom-call" else ""
    if i.opcode in _FREE or i.opcode.endswith("-done") or target in _FREE_CALLS:
        return 0
    if i.opcode == "fusion":
        inner = program.computations[dict(i.called())["calls"]]
        read = sum(_read(run.computation, name, n, inner, program) for n, name in enumerate(i.operands))
        return read + _written(i, inner)
    operands = [_stored(run.computation[name].arrays) for name in i.operands]
    results = [array for array in i.arrays if not array.space]
    if i.opcode in _SLICES:  # of its operand, in the operand's memory, it reads as much as its result is
        whole = i.arrays[-2] if i.opcode == "slice-start" else i.arrays[0]
        return whole.stored_bytes * (bool(operands[0]) + (not whole.space))
    if i.opcode == "dynamic-update-slice":
        return operands[1] + (0 if i.arrays[0].space else _stored_anywhere(run.computation[i.operands[1]]))
    if i.names_operands:
        return _stored(results)
    if target.startswith(_LIBRARIES):
        results = results[:-1]
    return sum(_stored(run.computation[name].arrays) for name in set(i.operands)) + _stored(results)


def sent_by(run: Run) -> int:
    """Bytes that one device sends in a collective: about the larger of what it gives and gets, twice for an all-reduce,
    which is a reduce-scatter and an all-gather. A ring of n devices sends (n - 1) / n of it."""
    found = collective(run)
    if not found:
        return 0
    given = sum(a.bytes for name in run.instruction.operands for a in run.computation[name].arrays)
    return max(found.bytes, given) * (2 if found.kind == "all-reduce" else 1)


def _read(outer: Computation, name: str, n: int, inner: Computation, program: Program) -> int:
    arrays = outer[name].arrays
    whole = _stored(arrays)
    return min(whole, _used(inner, n, program)) if whole else 0


def _used(inner: Computation, n: int, program: Program) -> float:
    """Bytes that a fusion needs of its n-th parameter; infinity for all of it."""
    parameter = next(i for i in inner.values() if i.opcode == "parameter" and i.arguments == f"({n})")
    total, names = 0.0, [parameter.name]
    while names:
        name = names.pop()
        for user in inner.values():
            for position, operand in enumerate(user.operands):
                if operand != name:
                    continue
                if user.opcode in _SLICES and position == 0:
                    total += _stored_anywhere(user)
                elif user.opcode == "bitcast":
                    names.append(user.name)
                elif user.opcode == "fusion":
                    total += _used(program.computations[dict(user.called())["calls"]], position, program)
                elif not (user.opcode == "dynamic-update-slice" and position == 0):
                    return math.inf
    return total


def _written(fusion: Instruction, inner: Computation) -> int:
    """Bytes of a fusion's results; of one that is an array with a slice replaced, in place, the slice's."""
    root = next(i for i in inner.values() if i.root)
    results = root.operands if root.opcode == "tuple" else [root.name]
    parts = [name for name in results for _ in inner[name].arrays]  # a reduction of several arrays is a tuple itself
    total = 0
    for array, name in zip(fusion.arrays, parts, strict=True):
        part = inner[name]
        while part.opcode == "bitcast":
            part = inner[part.operands[0]]
        update = inner[part.operands[1]] if part.opcode == "dynamic-update-slice" else None
        if not array.space:
            total += array.stored_bytes if update is None else _stored_anywhere(update)
    return total


def _convolution(attributes: str, left: Array, right: Array, result: Array) -> int:
    """2 x batch x features in and out x the pairs of places where the kernel meets an element of the input: TPUs write
    batched products and gradients as convolutions that are mostly padding."""
    labels = zip(_LABELS.search(attributes).groups(), (left, right, result), strict=True)
    given, kernel, out = (dict(zip(names, array.dimensions, strict=True)) for names, array in labels)
    window = dict(item.split("=") for item in (_WINDOW.search(attributes) or ["", ""])[1].split())
    pairs = 1
    for n, axis in enumerate(sorted(label for label in out if label.isdigit())):
        low = int(window["pad"].split("x")[n].split("_")[0]) if "pad" in window else 0
        steps = (
            int(window[key].split("x")[n]) if key in window else 1 for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        pairs *= _pairs(given[axis], kernel[axis], out[axis], low, *steps)
    return 2 * out["b"] * out["f"] * kernel["i"] * pairs


def _pairs(given: int, kernel: int, out: int, low: int, stride: int, dilation: int, kernel_dilation: int) -> int:
    """(Place of the result, place of the kernel) along one axis where the kernel meets an element of the input: not its
    padding, and not the gaps between dilated elements."""
    pairs = 0
    for k in range(kernel):
        start = low - k * kernel_dilation  # place y of the result meets place y * stride - start of the dilated input
        inside = range(max(0, -(-start // stride)), min(out, -(-(start + given * dilation) // stride)))
        pairs += len(inside) if dilation == 1 else sum((y * stride - start) % dilation == 0 for y in inside)
    return pairs


def _scores(i: Instruction, arrays: list[Array]) -> int:
    """Operations of one product of an attention kernel: 2 x queries x keys x width, over heads and clips."""
    query, key = [array for array in arrays if "f" in array.dtype][:2]
    if told := _SCORES.search(i.attributes):  # cuDNN: scores [B, H, T, T] of queries [B, T, H, D]
        return 2 * math.prod(int(n) for n in re.findall(r"\d+", told[1])) * query.dimensions[-1]
    return 2 * query.size * key.dimensions[-2]  # splash: both are [B, H, T, D]


def _stored(arrays: list[Array]) -> int:
    return sum(a.stored_bytes for a in arrays if not a.space)


def _stored_anywhere(i: Instruction) -> int:
    return i.arrays[0].stored_bytes


def _target(i: Instruction) -> str:
    found = _TARGET.search(i.attributes)
    return found[1] if found else ""
