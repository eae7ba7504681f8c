"""Converts a PyTorch checkpoint of any layout in layouts.py to this project's parameters.

    python convert/torch_to_flax.py --input vit_g_hybrid_pt_1200e_k710_ft.pth --output weights/vitg   # layout detected
    python convert/torch_to_flax.py --input epoch_47.pth --output RUN --config configs/thumos_vits.py # a whole detector
    python convert/torch_to_flax.py --list FILE                                                       # what it holds

Every tensor of the source is mapped, dropped for a stated reason (and kept beside the parameters), or unknown, which is
an error; weights.json lists them all.
"""

import pathlib
import sys

if __name__ == "__main__":
    if "convert" not in sys.modules:  # run as a file: the repository is not on the path
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    from tadjax import ending

    ending.catch_interrupts()  # before the other imports, which take seconds

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import hashlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging

from convert import runs
from convert.files import Checkpoint, StoredTensor, open_checkpoint
from convert.geometry import geometry
from convert.layouts import LAYOUTS, PARALLEL_PREFIXES, WRAPPERS, Layout
from convert.mapping import Parameter, Report, plan
from convert.output import LazyArray, new_directory, save_tree, write_json
from tadjax import ending
from tadjax.backbones.vit import CLIP_STEPS, sine_cosine
from tadjax.errors import WeightsError
from tadjax.flags import Parser, tidy
from tadjax.workdir import weights


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensors of one layout in a checkpoint. `tensors` by the names that the layout's table knows."""

    checkpoint: Checkpoint
    wrapper: str  # the top-level key that was read
    layout: Layout
    tensors: dict[str, StoredTensor]
    keys: dict[str, str]  # table name -> name in the file

    @property
    def path(self) -> pathlib.Path:
        return self.checkpoint.files[0]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A source, and which of our arrays its tensors become; no number has been read yet."""

    source: Source
    parameters: list[Parameter]
    report: Report
    geometry: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def detect(path: str | pathlib.Path, layout: str | None = None, wrapper: str | None = None) -> Source:
    """Opens a checkpoint and finds its layout (or takes the one named); reads no numbers.

    wrapper: the top-level key to read in place of the first of WRAPPERS that is there. WeightsError for a file of no
    known layout.
    """
    return recognise(open_checkpoint(path), layout, wrapper)


def recognise(checkpoint: Checkpoint, layout: str | None = None, wrapper: str | None = None) -> Source:
    """`detect`, of an opened checkpoint."""
    path = checkpoint.files[0]
    if wrapper is None:
        wrapper = next((w for w in WRAPPERS if w in checkpoint.groups), None)
    if wrapper not in checkpoint.groups:
        raise WeightsError(
            f"{path}: no tensors under {', '.join(repr(w) for w in WRAPPERS if w)} or at the top; it holds "
            f"{', '.join([*checkpoint.groups, *checkpoint.others][:12]) or 'nothing'} (--weights names another key)"
        )
    stored = checkpoint.groups[wrapper]
    for candidate in LAYOUTS:
        keys = _table_names(stored, candidate, path)
        if candidate.name == layout or (layout is None and _has_layout(candidate, keys)):
            implied = _implied(stored, candidate, keys)
            keys |= {name: name for name in implied}
            return Source(checkpoint, wrapper, candidate, {n: (stored | implied)[k] for n, k in keys.items()}, keys)
    if layout is not None:
        raise WeightsError(f"--layout={layout} is unknown; there are {', '.join(known.name for known in LAYOUTS)}")
    raise WeightsError(
        f"{path}: a checkpoint of another model family. Its {len(stored)} tensors begin with "
        f"{', '.join(list(stored)[:3])}; known are those of "
        + "; ".join(dict.fromkeys(known.title.partition(":")[0] for known in LAYOUTS))
    )


def _implied(stored: dict[str, StoredTensor], layout: Layout, keys: dict[str, str]) -> dict[str, StoredTensor]:
    """The tensors that the layout's files leave out because they are ones."""
    found = {}
    for rule in layout.rules:
        if rule.ones_like in keys and rule.torch not in keys:
            like = stored[keys[rule.ones_like]]
            ones = np.ones(like.shape, like.dtype)
            found[rule.torch] = StoredTensor(like.shape, like.dtype, like.file, array=ones)
    return found


def _has_layout(layout: Layout, names: Iterable[str]) -> bool:
    names = list(names)
    return all(fnmatch.filter(names, glob) for glob in layout.signature) and not any(
        fnmatch.filter(names, glob) for glob in layout.absent
    )


def _table_names(stored: Iterable[str], layout: Layout, path: pathlib.Path) -> dict[str, str]:
    """{name in the layout's table: name in the file}."""
    keys: dict[str, str] = {}
    for key in stored:
        name = strip(key, layout)
        if name in keys:
            raise WeightsError(f"{path}: {key} and {keys[name]} are both {name} once their prefixes are off")
        keys[name] = key
    return keys


def strip(key: str, layout: Layout) -> str:
    """A name without what may stand before it."""
    while key.startswith(PARALLEL_PREFIXES):
        key = key.partition(".")[2]
    for prefix in layout.prefixes:
        key = key.removeprefix(prefix)
    return key


def prepare(source: Source, *, allow_missing: bool = False, allow_unknown: bool = False) -> Conversion:
    """Assigns every tensor of the source; WeightsError lists what is unknown or missing, unless it is allowed,
    or names a tensor whose shape or dtype does not fit.
    """
    parameters, report = plan(source.tensors, source.layout.rules, source.layout.drops)
    report.check(str(source.path), allow_missing=allow_missing, allow_unknown=allow_unknown)
    try:
        shapes = {p.path: p.shape(source.tensors) for p in parameters}
    except WeightsError as error:
        raise WeightsError(f"{source.path}: {error}") from error
    globs = [drop.torch for drop in source.layout.drops if drop.positions]
    positions = [name for name in report.dropped if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]
    for name in positions:
        _check_positions(source, name, shapes["backbone/patch_embed/bias"][0])
    rows = source.tensors[positions[0]].shape[1] if positions else None
    found = geometry(shapes, source.layout.adapter, report.adapted, rows)
    return Conversion(source, parameters, report, found, shapes)


def _check_positions(source: Source, name: str, width: int) -> None:
    """The model computes its positions, so those in a file must be the same: [1, 8 g^2, width] for a g x g grid."""
    key, table = source.keys[name], source.tensors[name].read()
    grid = int((table.size / width / CLIP_STEPS) ** 0.5)
    if table.shape != (1, CLIP_STEPS * grid * grid, width):
        raise WeightsError(
            f"{source.path}: {key} has shape {table.shape}, which is no table of {CLIP_STEPS} x g x g positions of "
            f"width {width}: clips of another length, or a picture that is not square"
        )
    error = np.max(np.abs(table[0].astype(np.float32) - sine_cosine(table.shape[1], width)))
    tolerance = max(1e-6, np.finfo(np.float32).eps if table.dtype.itemsize > 2 else 2.0**-8)
    if not error <= tolerance:
        raise WeightsError(
            f"{source.path}: {key} is not the sine-cosine table (off by {error:.2g}); "
            "learned positions are not supported"
        )


def convert(conversion: Conversion, output: str | pathlib.Path, config: Any = None) -> None:
    """Writes the folder that `tadjax.workdir.weights` reads, array after array: memory holds one of them at a time.

    With a config the geometry is checked against it, and a detector with a head becomes a run's folder instead.
    """
    source, report = conversion.source, conversion.report
    read = lambda name: source.tensors[name].read()  # noqa: E731
    arrays = {
        p.path: LazyArray(
            conversion.shapes[p.path],
            source.tensors[p.pieces[0].key].dtype,
            lambda p=p: p.assemble(source.tensors, read),
        )
        for p in conversion.parameters
    }
    placed = {piece.key for p in conversion.parameters for piece in p.pieces}
    unused = {
        source.keys[name]: LazyArray(tensor.shape, tensor.dtype, tensor.read)
        for name, tensor in source.tensors.items()
        if name not in placed
    }
    size = sum(array.nbytes for array in [*arrays.values(), *unused.values()])
    run = None
    if config is not None:
        localizer, classes = runs.check_against(config, conversion.shapes, conversion.geometry, str(source.path))
        run = (config, classes, localizer) if "head" in conversion.geometry else None
    with new_directory(pathlib.Path(output), size) as folder, concurrent.futures.ThreadPoolExecutor(1) as background:
        digests = background.submit(_digests, source.checkpoint.files)
        if run is None:
            save_tree(folder / "params", arrays)
        else:
            runs.write_run(folder, *run, arrays)
            # Runs keep a state of their own; the source's, of its own dtype, stays for the way back.
            unused |= {source.keys[p.pieces[0].key]: arrays[p.path] for p in conversion.parameters if _is_state(p.path)}
        if unused:
            save_tree(folder / "unused", unused)
        info = {
            "format": weights.FORMAT,
            "layout": source.layout.name,
            "wrapper": source.wrapper,
            "source": digests.result(),
            "geometry": conversion.geometry,
            "adapted": report.adapted,
            "counts": counts(report),
            "parameters": {path: [array.shape, array.dtype.name] for path, array in arrays.items()},
            "tensors": [_fate(source, report, name) for name in source.tensors],
        }
        write_json(folder / weights.INFO, info)


def _is_state(path: str) -> bool:
    return path.startswith("state/")


def counts(report: Report) -> dict[str, int]:
    return {name: len(getattr(report, name)) for name in ("mapped", "dropped", "unknown", "missing")}


def _fate(source: Source, report: Report, name: str) -> dict[str, Any]:
    """One line of weights.json: what became of a tensor of the source."""
    tensor = source.tensors[name]
    line = {"key": source.keys[name], "shape": tensor.shape, "dtype": tensor.dtype.name}
    if name in report.mapped:
        implied = {} if source.keys[name] in source.checkpoint.groups[source.wrapper] else {"implied": "ones"}
        return line | {"mapped": report.mapped[name]} | implied
    return line | ({"dropped": report.dropped[name]} if name in report.dropped else {"unknown": True})


def _digests(files: tuple[pathlib.Path, ...]) -> list[dict[str, Any]]:
    found = []
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found.append({"file": file.name, "bytes": file.stat().st_size, "sha256": digest})
    return found


def describe(conversion: Conversion) -> str:
    """The report as text: layout, geometry, and every tensor's fate, layers of one kind on one line."""
    source, report = conversion.source, conversion.report
    lines = [f"{source.path}: {source.layout.title} (layout {source.layout.name}, read under {source.wrapper!r})"]
    lines += [f"  {name}: " + ", ".join(f"{k} {v}" for k, v in g.items()) for name, g in conversion.geometry.items()]
    others = [name for name in source.checkpoint.groups if name != source.wrapper]
    if others:
        lines.append(f"  not read: {', '.join(repr(name) for name in others)} (--weights=KEY reads another)")
    fates = {name: f"-> {path}" for name, path in report.mapped.items()}
    fates |= {name: f"dropped: {reason}" for name, reason in report.dropped.items()}
    fates |= dict.fromkeys(report.unknown, "UNKNOWN")
    lines += [f"  {line}" for line in _grouped(source.tensors, fates)]
    lines += [f"  {name} MISSING" for name in report.missing]
    lines.append("  " + ", ".join(f"{count} {name}" for name, count in counts(report).items()))
    return "\n".join(lines)


def _grouped(tensors: dict[str, StoredTensor], fates: dict[str, str]) -> list[str]:
    """Names that differ in their indices only, with one shape, on one line."""
    groups: dict[tuple, int] = {}
    for name, tensor in tensors.items():
        fate = re.sub(r"_\d+", "_*", fates.get(name, ""))
        group = (re.sub(r"\.\d+\.", ".*.", name), tensor.shape, tensor.dtype.name, fate)
        groups[group] = groups.get(group, 0) + 1
    return [
        f"{n:4d} x {name} {list(shape)} {dtype} {fate}".rstrip() for (name, shape, dtype, fate), n in groups.items()
    ]


def list_file(path: str | pathlib.Path) -> str:
    """What a checkpoint holds, as text, of a known layout or not."""
    checkpoint = open_checkpoint(path)
    lines = []
    for name, tensors in checkpoint.groups.items():
        size = sum(int(np.prod(t.shape)) * t.dtype.itemsize for t in tensors.values())
        lines.append(f"{name or '(top level)'}: {len(tensors)} tensors, {size / 1e6:.1f} MB")
        lines += [f"  {line}" for line in _grouped(tensors, {})]
    if checkpoint.others:
        lines.append(f"without tensors: {', '.join(checkpoint.others)}")
    try:
        source = detect(path)
        lines.append(f"layout: {source.layout.name}, {source.layout.title}")
    except WeightsError as error:
        lines.append(f"layout: unknown. {error}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = Parser("convert.torch_to_flax", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", metavar="FILE", help="print what a checkpoint holds, convert nothing")
    parser.add_argument("--input", help=".pth, .pt, .bin, .safetensors, .npz, the .index.json of a sharded checkpoint")
    parser.add_argument("--output", help="the folder to write; a run's with --config")
    parser.add_argument("--config", help="checks the geometry against this config; a whole detector becomes a run")
    parser.add_argument("--layout", help="skips detection: " + ", ".join(layout.name for layout in LAYOUTS))
    parser.add_argument(
        "--weights", metavar="KEY", help="top-level key to read, such as state_dict rather than its EMA"
    )
    parser.add_argument("--allow_missing", action="store_true", help="leave out parameters that the file lacks")
    parser.add_argument("--allow_unknown", action="store_true", help="keep unknown tensors, unused")
    args, overrides = parser.parse_known_args(tidy(sys.argv[1:] if argv is None else argv))
    if overrides and not args.config:
        parser.error(f"unknown arguments {' '.join(overrides)}")
    if not args.list and not (args.input and args.output):
        parser.error("give --input and --output, or --list FILE")
    logging.set_verbosity(logging.FATAL)  # Orbax warns of what is meant, and shows errors that we report
    return ending.run(lambda: run(args, overrides), args.output or args.list)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Does what the arguments say; returns the exit status."""
    if args.list:
        print(list_file(args.list))
        return 0
    source = detect(args.input, args.layout, args.weights)
    conversion = prepare(source, allow_missing=args.allow_missing, allow_unknown=args.allow_unknown)
    print(describe(conversion))
    convert(conversion, args.output, runs.load_config(args.config, overrides) if args.config else None)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
