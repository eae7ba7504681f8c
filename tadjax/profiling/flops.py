"""How many floating-point operations a function takes, counted on its traced program.

Matrix products and convolutions count 2 for every multiply-add, the body of a scan as often as it runs, a branch at its
most expensive, everything element-wise not at all. Compilers count a loop's body once, and know nothing of what is in a
fused attention kernel: trace with plain attention, which does the same arithmetic.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.interpreters import partial_eval


def count(function: Callable, *arguments: Any) -> int:
    """Operations of function(*arguments), arrays or ShapeDtypeStructs; what its results do not need is left out."""
    closed = jax.make_jaxpr(function)(*arguments)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _of_program(needed)


def _of_program(program: Any) -> int:
    return sum(_of_equation(equation) for equation in program.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        gaps = math.prod(params["lhs_dilation"])  # the gradient of a stride: between its elements there is nothing
        return 2 * equation.outvars[0].aval.size * math.prod(kernel) // outputs // gaps
    inner = [_of_program(program) for program in _programs(params)]
    if name == "cond":
        return max(inner)
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "shard_map":  # its program is one device's
        return params["mesh"].size * sum(inner)
    return sum(inner)


def _programs(params: dict) -> Iterator[Any]:
    """The programs inside an equation."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(getattr(item, "jaxpr", None), "eqns"):
                yield item.jaxpr
