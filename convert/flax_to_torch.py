"""Writes converted weights, or a trained run, as a PyTorch checkpoint.

    python convert/flax_to_torch.py --input weights/vitg --output vitg.pth                  # the layout it came in
    python convert/flax_to_torch.py --input RUN --output model.pth --layout opentad         # a whole detector

What was converted comes back bit by bit in its own layout, tensors that localization does not use included. An --output
that ends in .safetensors or .npz is written in that format.
"""

import pathlib
import sys

if __name__ == "__main__":
    if "convert" not in sys.modules:  # run as a file: the repository is not on the path
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    from tadjax import ending

    ending.catch_interrupts()  # before the other imports, which take seconds

import argparse
import dataclasses
import fnmatch
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from absl import logging

from convert import runs
from convert.files import as_torch, from_torch
from convert.geometry import geometry
from convert.layouts import LAYOUTS, Layout
from convert.mapping import flat, names, plan
from convert.torch_to_flax import strip
from tadjax import ending
from tadjax.backbones.swin import Swin, offset_index
from tadjax.backbones.vit import CLIP_STEPS, PRETRAIN_IMAGE, sine_cosine
from tadjax.errors import WeightsError, first_line
from tadjax.flags import Parser, tidy
from tadjax.workdir import weights


@dataclasses.dataclass
class Stored:
    """Our arrays by path; tensors that localization does not use, by their names in the source; and weights.json.

    `info` of a run that was not converted holds "geometry" and "adapted" only.
    """

    arrays: dict[str, np.ndarray]
    unused: dict[str, np.ndarray]
    info: dict[str, Any]


def read(directory: pathlib.Path) -> Stored:
    """A folder that torch_to_flax.py wrote."""
    info = weights.read_info(directory)
    return Stored(flat(weights.restore(directory / "params")), _unused(directory), info)


def _unused(directory: pathlib.Path) -> dict[str, np.ndarray]:
    return flat(weights.restore(directory / "unused")) if (directory / "unused").exists() else {}


def read_run(directory: pathlib.Path) -> Stored:
    """A training run, or a detector that torch_to_flax.py made one; frozen weights that are bfloat16 become float32."""
    arrays, step, config, localizer = runs.read_run(directory, weights.restore)
    shapes = {path: array.shape for path, array in arrays.items()}
    found = geometry(shapes, config.adaptation.method, list(localizer.layers))
    if "backbone" in found:  # features on disk have none
        found["backbone"]["image"] = config.backbone.image
    if (directory / weights.INFO).exists() and step == 0:  # converted, and not trained since
        kept = {path: array for path, array in arrays.items() if not path.startswith("state/")}
        return Stored(kept, _unused(directory), weights.read_info(directory))
    arrays = {path: array.astype(np.float32) for path, array in arrays.items()}
    return Stored(arrays, {}, {"geometry": found, "adapted": list(localizer.layers)})


def choose_layout(name: str | None, stored: Stored) -> Layout:
    """The layout named, or of a family ("opentad") the one that fits; without a name the source's own."""
    name = name or stored.info.get("layout")
    if name is None:
        raise WeightsError("--layout is missing: a run has none of its own; give --layout=opentad")
    exact = [layout for layout in LAYOUTS if layout.name == name]
    family = exact or [layout for layout in LAYOUTS if layout.name.startswith(f"{name}_") and _fits(layout, stored)]
    if not family:
        raise WeightsError(f"--layout={name} is none that fits; there are {', '.join(known.name for known in LAYOUTS)}")
    return family[0]


def _fits(layout: Layout, stored: Stored) -> bool:
    """Whether the layout names all our arrays, and its adapters are of our kind."""
    shapes = {path: array.shape for path, array in stored.arrays.items() if not path.startswith("state/")}
    named = {p.path for p in plan(names(shapes, layout.rules, stored.info["adapted"]), layout.rules)[0]}
    return named == set(shapes) and layout.adapter == stored.info["geometry"].get("adapter", {}).get("method", "")


def to_state_dict(stored: Stored, layout: Layout) -> dict[str, torch.Tensor]:
    """Every tensor of the layout by its name in the file; takes the arrays out of `stored` as it goes."""
    own = stored.info.get("layout") == layout.name
    if own:
        keys = {strip(line["key"], layout): line["key"] for line in stored.info["tensors"]}
    else:
        shapes = {path: array.shape for path, array in stored.arrays.items()}
        keys = {name: layout.prefix + name for name in names(shapes, layout.rules, stored.info["adapted"])}
    tensors, arrays = {}, stored.arrays
    for parameter in plan(keys, layout.rules)[0]:
        if parameter.path in arrays:  # a run keeps its state elsewhere
            for name, tensor in parameter.disassemble(arrays.pop(parameter.path)):
                tensors[keys[name]] = as_torch(tensor)
    if left := sorted(path for path in arrays if not path.startswith("state/")):
        raise WeightsError(f"layout {layout.name} has no place for {', '.join(left[:6])}")
    if own:
        for line in stored.info["tensors"]:
            if "implied" in line and (tensors[line["key"]] == 1).all():
                del tensors[line["key"]], keys[strip(line["key"], layout)]  # the source leaves it out, too
        tensors |= {key: as_torch(np.array(tensor)) for key, tensor in stored.unused.items()}
        shapes = {line["key"]: line["shape"] for line in stored.info["tensors"]}  # which know a tensor's heads
        return {key: tensors[key].reshape(shapes[key]) for key in keys.values()}  # in the source's order
    return tensors | dict(_rest(stored, layout, list(tensors)))


def _rest(stored: Stored, layout: Layout, written: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of the layout that are none of our parameters: the source's where it has them, else of fixed values."""
    source = next((known for known in LAYOUTS if known.name == stored.info.get("layout")), None)
    theirs = {strip(key, source): tensor for key, tensor in stored.unused.items()} if source else {}
    backbone = stored.info["geometry"].get("backbone", {})
    for drop in layout.drops:
        found = fnmatch.filter(theirs, drop.torch)
        for name in found:
            yield layout.prefix + name, as_torch(np.array(theirs[name]))
        missing = [layout.prefix + drop.torch] if drop.fill and not found else []
        if missing and drop.fill == "offsets":
            tables = fnmatch.filter(written, "*.relative_position_bias_table")
            missing = [table.replace("bias_table", "index") for table in tables]
        for name in missing:
            yield name, as_torch(_fill(drop.fill, backbone))


def _fill(fill: str, backbone: dict[str, Any]) -> np.ndarray:
    if fill == "positions":
        grid = (backbone.get("image") or PRETRAIN_IMAGE) // backbone["patch"]
        return sine_cosine(CLIP_STEPS * grid * grid, backbone["width"])[None]
    if fill == "offsets":
        return offset_index(Swin.window)
    return {"ones": np.ones, "zeros": np.zeros}[fill](backbone["width"], np.float32)


def write(tensors: dict[str, torch.Tensor], wrappers: tuple[str, ...], path: pathlib.Path) -> None:
    """Writes beside `path` and renames; WeightsError if the disk fails. The format goes by the name's ending."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)

    def remove() -> None:
        partial.unlink(missing_ok=True)

    try:
        with ending.undone(remove):
            _save(tensors, wrappers, partial, path.suffix)
        partial.rename(path)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path} could not be written, nothing is left of it: {first_line(error)}") from error
    finally:
        remove()


def _save(tensors: dict[str, torch.Tensor], wrappers: tuple[str, ...], path: pathlib.Path, suffix: str) -> None:
    if suffix == ".safetensors":
        from safetensors.torch import save_file  # installed where it is used; reading needs no library

        save_file(tensors, path)
    elif suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **{name: from_torch(tensor) for name, tensor in tensors.items()})
    elif wrappers == ("",):
        torch.save(tensors, path)
    else:
        epoch = {"epoch": 0} if "state_dict" in wrappers[0] else {}  # OpenTAD prints it
        torch.save(epoch | dict.fromkeys(wrappers, tensors), path)


def convert(directory: pathlib.Path, output: pathlib.Path, layout_name: str | None = None) -> int:
    """Writes `output` and returns the number of tensors in it."""
    if not directory.is_dir():
        raise WeightsError(f"{directory}: no such folder")
    stored = read_run(directory) if (directory / "config.json").exists() else read(directory)
    layout = choose_layout(layout_name, stored)
    wrappers = (stored.info["wrapper"],) if stored.info.get("layout") == layout.name else layout.wrappers
    tensors = to_state_dict(stored, layout)
    write(tensors, wrappers, output)
    return len(tensors)


def main(argv: list[str] | None = None) -> int:
    parser = Parser("convert.flax_to_torch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=pathlib.Path, help="converted weights, or a run")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="the file to write")
    parser.add_argument("--layout", help="opentad, or one of " + ", ".join(layout.name for layout in LAYOUTS))
    args = parser.parse_args(tidy(sys.argv[1:] if argv is None else argv))
    logging.set_verbosity(logging.FATAL)  # Orbax warns of what is meant, and shows errors that we report

    def write_out() -> int:
        print(f"wrote {convert(args.input, args.output, args.layout)} tensors to {args.output}")
        return 0

    return ending.run(write_out, str(args.output))


if __name__ == "__main__":
    sys.exit(main())
