"""Torch state dicts <-> this project's parameters, by one table read in both directions.

A table is a tuple of `Rule(torch name, our path, transform)`; the tables stand in backbones.py and heads.py, and
layouts.py says which files they are of.
Placeholders in a torch name:

    {layer}    stacks: the tensors of all layers become one array with a leading layer axis (0, 1, 2, ... without gaps)
    {adapted}  stacks likewise, but over the adapted layers only, ascending; their list comes back in `Report.adapted`
    {rest}     stacks likewise, of a layer whose block 0 is of another shape: 1, 2, ... lie at rows 0, 1, ...
    {i}        an index that our path repeats (".stem.{i}." -> "/stem_{i}/")
    {last}     one index, that after all {i} of the same name: the last layer of a list, of another kind than the others

Every transform is a bijection of one tensor, so torch -> ours -> torch is bit-identical.
"""

import dataclasses
import fnmatch
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tadjax.errors import WeightsError

Params = dict[str, Any]  # nested dicts of arrays

HEAD = 64  # channels of each of VideoPrism's heads. A file with others comes back by the shapes that it had


def _in_heads(a: np.ndarray) -> np.ndarray:
    return a.reshape(*a.shape[:-1], -1, math.gcd(HEAD, a.shape[-1]))


# name: (torch -> ours, ours -> torch). Torch keeps outputs first, this project channels last.
TRANSFORMS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "same": (lambda a: a, lambda a: a),
    "linear": (lambda a: a.T, lambda a: a.T),  # [out, in] <-> [in, out]
    "pointwise": (lambda a: a[:, :, 0].T, lambda a: a.T[:, :, None]),  # Conv1d k=1 [out, in, 1] <-> [in, out]
    "conv1d": (lambda a: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0)),  # [out, in/g, k] <-> [k, in/g, out]
    "conv2d": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),  # <-> [h, w, in/g, out]
    "conv2d_frame": (  # a 2-D convolution of video's frames [out, in/g, h, w] <-> [1, h, w, in/g, out]
        lambda a: a.transpose(2, 3, 1, 0)[None],
        lambda a: a[0].transpose(3, 2, 0, 1),
    ),
    "conv3d": (lambda a: a.transpose(2, 3, 4, 1, 0), lambda a: a.transpose(4, 3, 0, 1, 2)),  # <-> [t, h, w, in/g, out]
    "channels5d": (lambda a: a[0, 0, 0, 0], lambda a: a[None, None, None, None]),  # [1, 1, 1, 1, C] <-> [C]
    "vector": (lambda a: a[0, 0], lambda a: a[None, None]),  # [1, 1, C] <-> [C]
    "table": (lambda a: a[0], lambda a: a[None]),  # [1, N, C] <-> [N, C]
    "patches": (  # [p p 3, out], by row, column, colour <-> [1, p, p, 3, out]
        lambda a: a.reshape(1, math.isqrt(a.shape[0] // 3), -1, 3, a.shape[1]),
        lambda a: a.reshape(-1, a.shape[-1]),
    ),
    "heads": (lambda a: a.reshape(*a.shape[:-2], -1), lambda a: _in_heads(a)),  # [..., heads, d] <-> [..., heads d]
    "heads_out": (  # [layers, out, heads, d] <-> [layers, heads d, out]
        lambda a: a.reshape(*a.shape[:2], -1).swapaxes(1, 2),
        lambda a: _in_heads(a.swapaxes(1, 2)),
    ),
    "channels": (lambda a: a[0, :, 0], lambda a: a[None, :, None]),  # [1, C, 1] <-> [C]
}
# The same for a layer that is the only one of its kind: our array has a leading axis of 1.
TRANSFORMS |= {
    f"{name}_stacked": (lambda a, there=there: there(a)[None], lambda a, back=back: back(a[0]))
    for name, (there, back) in list(TRANSFORMS.items())
}
_STACKED = ("{layer}", "{adapted}", "{rest}")
_PLACEHOLDER = re.compile(r"\{(layer|adapted|rest|i|last)\}")


@functools.cache
def _regex(torch: str) -> re.Pattern[str]:
    return re.compile(r"(\d+)".join(re.escape(text) for text in _PLACEHOLDER.sub("\0", torch).split("\0")))


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table. `part` = (j, n): the tensor is the j-th of n equal parts of ours along its last axis."""

    torch: str
    flax: str
    transform: str = "same"
    part: tuple[int, int] = (0, 1)
    optional: bool = False  # a file without it is complete
    alias: str = ""  # another torch name of the same, read as well
    ones_like: str = ""  # a file without it means ones, in the shape of this other tensor of it

    def match(self, key: str) -> int | None:
        """The index in `key` (0 where the rule has no placeholder), or None where the rule is not about `key`."""
        found = _regex(self.torch).fullmatch(key) or (self.alias and _regex(self.alias).fullmatch(key))
        if not found:
            return None
        index = int(found[1]) if found.groups() else 0
        return index if index >= self.first else None

    def torch_key(self, index: int) -> str:
        return _PLACEHOLDER.sub(str(index), self.torch)

    def path(self, index: int) -> str:
        return self.flax.replace("{i}", str(index))

    @property
    def stacked(self) -> bool:
        return any(s in self.torch for s in _STACKED)

    @property
    def first(self) -> int:
        """The index of row 0."""
        return int("{rest}" in self.torch)

    @property
    def group(self) -> str | None:
        """The name before the placeholder: rules of one group must agree on the indices that exist."""
        found = _PLACEHOLDER.search(self.torch)
        return self.torch[: found.start()] + found[0] if found else None


@dataclasses.dataclass(frozen=True)
class Drop:
    """A tensor that localization does not use, and why. It is kept beside the parameters, so that nothing is lost.

    `positions`: it must equal the sine-cosine table. `fill` says what a torch file holds there that is written from
    parameters which never had it: "ones", "zeros", "positions", or "offsets" (of the tokens of Swin's windows, beside
    every bias table); None: the file does without.
    """

    torch: str  # a glob
    reason: str
    positions: bool = False
    fill: str | None = None


def norm(torch: str, flax: str, transform: str = "same") -> tuple[Rule, ...]:
    """LayerNorm: weight -> scale, bias -> bias."""
    return Rule(f"{torch}.weight", f"{flax}/scale", transform), Rule(f"{torch}.bias", f"{flax}/bias", transform)


def dense(torch: str, flax: str, transform: str = "linear") -> tuple[Rule, ...]:
    """A layer with kernel and bias; `transform` is the kernel's."""
    return Rule(f"{torch}.weight", f"{flax}/kernel", transform), Rule(f"{torch}.bias", f"{flax}/bias")


def under(prefix: str, lines: tuple) -> tuple:
    """The same rules (or drops) for tensors whose names start with `prefix`."""

    def prefixed(line: Rule | Drop) -> Rule | Drop:
        alias = {"alias": prefix + line.alias} if isinstance(line, Rule) and line.alias else {}
        return dataclasses.replace(line, torch=prefix + line.torch, **alias)

    return tuple(map(prefixed, lines))


@dataclasses.dataclass
class Report:
    """What became of every key of a state dict."""

    mapped: dict[str, str] = dataclasses.field(default_factory=dict)  # torch key -> our path
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)  # torch key -> reason
    unknown: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)  # torch keys that the table wants and the file lacks
    adapted: list[int] = dataclasses.field(default_factory=list)  # layers that {adapted} stands for

    def check(self, source: str, *, allow_unknown: bool = False, allow_missing: bool = False) -> None:
        """WeightsError that lists unknown and missing keys, unless they are allowed."""
        problems = []
        if self.missing and not allow_missing:
            problems.append(f"{len(self.missing)} missing: {_some(self.missing)} (--allow_missing goes on without)")
        if self.unknown and not allow_unknown:
            problems.append(f"{len(self.unknown)} unknown: {_some(self.unknown)} (--allow_unknown keeps them unused)")
        if problems:
            raise WeightsError(f"{source}: " + "; ".join(problems))


@dataclasses.dataclass(frozen=True)
class Piece:
    """One torch tensor's place in one of our arrays."""

    key: str
    row: int  # position on the leading axis of a stacked array, else 0
    rule: Rule


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One of our arrays and the torch tensors that it is made of."""

    path: str
    pieces: tuple[Piece, ...]

    def shape(self, tensors: Mapping[str, Any]) -> tuple[int, ...]:
        """Its shape, from those of `tensors`, by key; WeightsError where one does not fit beside the first."""
        first = self.pieces[0]
        wanted = shape = _transformed_shape(first, tensors)
        for piece in self.pieces[1:]:
            found = _transformed_shape(piece, tensors)
            for theirs, ours in ((found, wanted), (tensors[piece.key].dtype, tensors[first.key].dtype)):
                if theirs != ours:
                    raise WeightsError(
                        f"{piece.key}: {theirs} does not fit beside {first.key}, which is {ours}; both are part of "
                        f"{self.path}"
                    )
        if (n := first.rule.part[1]) > 1:
            shape = (*shape[:-1], n * shape[-1])
        return (1 + max(p.row for p in self.pieces), *shape) if first.rule.stacked else shape

    def assemble(self, tensors: Mapping[str, Any], read: Callable[[str], np.ndarray]) -> np.ndarray:
        """Reads its tensors one at a time, so that no more than this array and one tensor are in memory."""
        array = np.empty(self.shape(tensors), tensors[self.pieces[0].key].dtype)
        for piece in self.pieces:
            tensor = _transformed(piece, read(piece.key))
            place = array[piece.row, ...] if piece.rule.stacked else array
            j, n = piece.rule.part
            if n > 1:
                place = place[..., j * tensor.shape[-1] : (j + 1) * tensor.shape[-1]]
            place[...] = tensor
        return array

    def disassemble(self, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The inverse: (torch key, contiguous tensor in torch's layout) of each of its pieces."""
        for piece in self.pieces:
            tensor = array[piece.row] if piece.rule.stacked else array
            j, n = piece.rule.part
            if n > 1:
                size = tensor.shape[-1] // n
                tensor = tensor[..., j * size : (j + 1) * size]
            # np.ascontiguousarray would make a 0-d array 1-d
            yield piece.key, np.array(TRANSFORMS[piece.rule.transform][1](tensor), order="C")


def plan(keys: Iterable[str], rules: Iterable[Rule], drops: Iterable[Drop] = ()) -> tuple[list[Parameter], Report]:
    """Which of our arrays come from which torch keys; no tensor is touched."""
    rules, drops = tuple(rules), tuple(drops)
    report, found = Report(), {}
    for key in keys:
        rule, index = next(((r, i) for r in rules if (i := r.match(key)) is not None), (None, 0))
        if rule is not None:
            found[rule, index] = key
            report.mapped[key] = rule.path(index)
        elif (drop := next((d for d in drops if fnmatch.fnmatchcase(key, d.torch)), None)) is not None:
            report.dropped[key] = drop.reason
        else:
            report.unknown.append(key)
    indices: dict[str | None, set[int]] = {}
    for rule, index in found:
        indices.setdefault(rule.group, set()).add(index)
    pieces: dict[str, list[Piece]] = {}
    incomplete = set()
    for rule in rules:
        wanted = _wanted(rule, indices)
        if "{adapted}" in rule.torch:
            report.adapted = wanted
        if "{last}" in rule.torch:
            for key in [k for (other, index), k in found.items() if other == rule and index not in wanted]:
                del report.mapped[key]
                report.unknown.append(key)
        if rule.optional and not any((rule, index) in found for index in wanted):
            continue
        for row, index in enumerate(wanted):
            if (rule, index) not in found:
                report.missing.append(rule.torch_key(index))
                incomplete.add(rule.path(index))
                continue
            piece = Piece(found[rule, index], row if rule.stacked else 0, rule)
            pieces.setdefault(rule.path(index), []).append(piece)
    for key, path in list(report.mapped.items()):
        if path in incomplete:
            del report.mapped[key]
            report.dropped[key] = f"other tensors of {path} are missing"
    whole = [Parameter(path, tuple(found)) for path, found in pieces.items() if path not in incomplete]
    return whole, report


def to_flax(state_dict: Mapping[str, Any], rules: Iterable[Rule], drops: Iterable[Drop] = ()) -> tuple[Params, Report]:
    """A torch state dict (numpy arrays or CPU tensors) as nested dicts of numpy arrays, dtypes kept.

    Unknown and missing keys stand in the report; `report.check(name)` makes them an error.
    """
    parameters, report = plan(state_dict, rules, drops)
    arrays = {key: np.asarray(tensor) for key, tensor in state_dict.items()}
    return nested({p.path: p.assemble(arrays, arrays.__getitem__) for p in parameters}), report


def to_torch(params: Params, rules: Iterable[Rule], adapted: Iterable[int] = ()) -> dict[str, np.ndarray]:
    """The inverse of `to_flax`: contiguous arrays in torch's layout, by torch key, in the order of the table.

    `adapted`: the layers that the leading axis of {adapted} arrays stands for (default 0, 1, 2, ...).
    Arrays that no rule names, or rules whose array is absent, are left out.
    """
    arrays = flat(params)
    parameters, _ = plan(names({path: np.shape(a) for path, a in arrays.items()}, rules, adapted), rules)
    return {key: tensor for p in parameters for key, tensor in p.disassemble(np.asarray(arrays[p.path]))}


def names(shapes: Mapping[str, tuple[int, ...]], rules: Iterable[Rule], adapted: Iterable[int] = ()) -> list[str]:
    """The torch keys that arrays of these paths and shapes become, in the order of the table."""
    rules, adapted = tuple(rules), list(adapted)
    indices = {rule: _indices(rule, shapes, adapted) for rule in rules}
    grouped: dict[str | None, set[int]] = {}
    for rule, found in indices.items():
        grouped.setdefault(rule.group, set()).update(found)
    for rule, found in indices.items():
        if "{last}" in rule.torch and found:
            indices[rule] = _wanted(rule, grouped)
    return [rule.torch_key(index) for rule in rules for index in indices[rule]]


def flat(params: Params, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}."""
    arrays = {}
    for name, value in params.items():
        arrays |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return arrays


def nested(arrays: Mapping[str, Any]) -> Params:
    """{"a/b": x} -> {"a": {"b": x}}."""
    params: Params = {}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return params


def _transformed_shape(piece: Piece, tensors: Mapping[str, Any]) -> tuple[int, ...]:
    return _transformed(piece, np.broadcast_to(np.float32(0), tensors[piece.key].shape)).shape  # takes no memory


def _transformed(piece: Piece, tensor: np.ndarray) -> np.ndarray:
    try:
        return TRANSFORMS[piece.rule.transform][0](tensor)
    except (ValueError, IndexError) as error:
        raise WeightsError(
            f"{piece.key}: a tensor of shape {tensor.shape} cannot become {piece.rule.flax} "
            f"({piece.rule.transform}: {error})"
        ) from error


def _wanted(rule: Rule, indices: Mapping[str | None, set[int]]) -> list[int]:
    """Indices that must exist for `rule`, by what the other rules of its group have."""
    if rule.group is None:
        return [0]
    if "{last}" in rule.torch:
        return [1 + max(indices.get(rule.group.replace("{last}", "{i}"), ()), default=-1)]
    seen = sorted(indices.get(rule.group, ()))
    if "{adapted}" in rule.torch or not seen:
        return seen
    return list(range(rule.first, seen[-1] + 1))


def _indices(rule: Rule, shapes: Mapping[str, tuple[int, ...]], adapted: list[int]) -> list[int]:
    """The indices that `rule`'s torch name takes for arrays of these shapes; none where its array is absent."""
    if "{i}" in rule.torch:
        pattern = re.compile(re.escape(rule.flax).replace(r"\{i\}", r"(\d+)"))
        return sorted(int(found[1]) for path in shapes if (found := pattern.fullmatch(path)))
    if rule.flax not in shapes:
        return []
    if not rule.stacked:
        return [0]
    rows = shapes[rule.flax][0]
    if "{adapted}" not in rule.torch or not adapted:
        return list(range(rule.first, rule.first + rows))
    if len(adapted) != rows:
        raise WeightsError(f"{rule.flax}: {rows} layers are stacked, but {len(adapted)} are named: {adapted}")
    return adapted


def _some(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
