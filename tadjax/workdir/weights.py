"""Pre-trained weights as convert/torch_to_flax.py writes them, read straight to the devices.

DIR/weights.json   where they come from, their geometry, and every tensor of the source
DIR/params/        Orbax: {"backbone": ..., and of a whole detector "adapter", "head", "state"}, in the source's dtype
DIR/unused/        Orbax: tensors of the source that localization does not use, by their own names
DIR/params.checksums.json, unused.checksums.json     see tadjax/workdir/checksums.py
"""

import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tadjax import ending
from tadjax.errors import TadjaxError, WeightsError, first_line
from tadjax.workdir import checksums

INFO = "weights.json"
FORMAT = 1

# What to change in the config when a parameter's axis has another length: the first line that matches "path:axis" (axes
# count from the front; "rank" for another number of axes).
_CONFIG_FIELDS = (
    (r"adapter/(stage\d/)?\w+(/\w+)?:0", "config.adaptation.layers"),
    (r"adapter/(stage\d/)?dwconv/kernel:(rank|[123])", "config.adaptation.kernel"),
    (r"adapter/(stage\d/)?(down/kernel:1|up/kernel:2)", "config.backbone.size"),
    (r"adapter/.*", "config.adaptation.ratio"),
    (r"head/projection/embed_0/conv/kernel:1", "config.backbone.size"),
    (r"head/(classification|start|end)/out/(kernel:2|bias:0)", "config.data.classes"),
    (r"head/regression/out/(kernel:2|bias:0)", "config.head.tridet.bins"),
    (r"head/regression/scale:0", "config.head.convs and config.head.regression_ranges"),
    (r"head/.*", "config.head.width"),
    (r"backbone/positions:0", "config.backbone.position_frames or config.backbone.image"),
    (r"backbone/(spatial|temporal)_positions:0", "config.backbone.image or config.backbone.size"),
    (r"backbone/.*", "config.backbone.size"),
)
# The same for a parameter that only one of the two has.
_CONFIG_SWITCHES = (
    (r"adapter/(stage\d/)?(dwconv|mid)/.*", "config.adaptation.kernel"),
    (r"adapter/.*", "config.adaptation.method"),
    (r"head/.*/(scale_attention|scale_mlp)", "config.head.drop_path (0 has no layer scale)"),
    (r"head/projection/.*|head/neck/.*", "config.head.convs"),
    (r"head/(classification|regression)/conv_.*", "config.head.head_convs"),
    (r"head/.*", "config.head.name"),
    (r"backbone/.*", "config.backbone.name or config.backbone.size"),
)


def read_info(directory: str | pathlib.Path) -> dict[str, Any]:
    """The whole of weights.json; WeightsError if `directory` holds no converted weights."""
    path = pathlib.Path(directory) / INFO
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError:
        raise WeightsError(
            f"{path} does not exist: make it with convert/torch_to_flax.py --output={directory}"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        found = info.get("format") if isinstance(info, dict) else "none"
        raise WeightsError(f"{path} is of format {found}, this version reads {FORMAT}: convert again")
    for field in ("geometry", "parameters"):
        if not isinstance(info.get(field), dict):
            raise WeightsError(f'{path} is damaged: "{field}" is no object; convert again')
    return info


def read_geometry(directory: str | pathlib.Path) -> dict[str, Any]:
    """Widths, depths and counts of the weights in `directory`, by collection ("backbone", "adapter", "head")."""
    return read_info(directory)["geometry"]


def load_backbone(directory: str | pathlib.Path, like: Any, image: int | None = None) -> Any:
    """The backbone's parameters, restored shard by shard onto the devices and cast to the dtypes of `like`.

    like: tree of jax.ShapeDtypeStruct (with shardings) of params["backbone"], or of arrays. A cast to bfloat16 rounds
    to nearest even. WeightsError lists every parameter whose shape differs and the config field to change.
    image: config.backbone.image, checked against the grid of the source's positions where it holds them.
    """
    check_image(read_geometry(directory)["backbone"], image, directory)
    return load(directory, {"backbone": like})["backbone"]


def check_image(geometry: Mapping[str, Any], image: int | None, directory: str | pathlib.Path) -> None:
    """WeightsError where the positions that a backbone learned are not those of the config's pictures."""
    pretrained = geometry.get("image")
    if image is not None and pretrained is not None and image != pretrained:
        raise WeightsError(
            f"{directory}: its positions are those of pictures of {pretrained} x {pretrained} pixels; "
            f"config.backbone.image = {image}"
        )


def load(directory: str | pathlib.Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Collections of params, as `load_backbone` does it: those that `like` has, others are not read."""
    directory = pathlib.Path(directory)
    info = read_info(directory)
    stored = {path: tuple(shape) for path, (shape, _) in info["parameters"].items() if path.split("/")[0] in like}
    check_geometry(stored, shapes(like), str(directory))
    target = jax.tree.map(_abstract, dict(like))
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
    with reading(f"{directory}/params"), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        params = checkpointer.restore((directory / "params").resolve(), args=args)
    checksums.verify(directory / "params", params)
    return params


def restore(path: pathlib.Path) -> dict:
    """An Orbax tree as numpy arrays, in the dtypes it was written in, its checksums compared."""
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            stored = checkpointer.metadata(path.resolve()).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
            tree = checkpointer.restore(path.resolve(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} is missing or damaged: {first_line(error)}") from error
    checksums.verify(path, tree)
    return tree


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Whatever Orbax raises on files that are not whole (TensorStore: plain Exceptions) becomes one WeightsError."""
    try:
        yield
    except TadjaxError:
        raise
    except Exception as error:
        raise WeightsError(f"{source} is damaged: {first_line(error)}") from error


def digest(params: Any) -> str:
    """SHA-256 of all parameters, names and numbers."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(jax.device_get(leaf)).view(np.uint8))
    return found.hexdigest()


def save(directory: str | pathlib.Path, params: Mapping[str, Any], geometry: Mapping[str, Any], layout: str) -> None:
    """Writes collections of params as `load` reads them; the folder appears whole or not at all.

    geometry: by collection, as in `read_geometry`. layout: where they come from, in a word.
    """
    directory = pathlib.Path(directory).resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    parameters = {path: [list(shape), str(dtype)] for path, (shape, dtype) in _described(params).items()}
    info = {"format": FORMAT, "layout": layout, "geometry": dict(geometry), "parameters": parameters}
    with ending.temporary_folder(f"{directory.name}.partial-", directory.parent) as beside:
        partial = beside / directory.name
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(partial / "params", args=ocp.args.PyTreeSave(dict(params)))
        checksums.write(partial / "params", checksums.of_tree(dict(params)))
        (partial / INFO).write_text(json.dumps(info, indent=1) + "\n")
        partial.rename(directory)


def _described(tree: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): (tuple(leaf.shape), leaf.dtype) for path, leaf in leaves}


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """{"backbone/blocks/norm1/scale": (40, 1408), ...} of a tree of arrays or ShapeDtypeStructs."""
    return {path: shape for path, (shape, _) in _described(tree).items()}


def check_geometry(stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], source: str) -> None:
    """WeightsError that lists each parameter of another shape in the weights, and the config fields to change."""
    problems, fields = [], {}
    for path in sorted({*stored, *wanted}):
        if path not in stored or path not in wanted:
            field = _first(_CONFIG_SWITCHES, path)
            problems.append(f"{path} is only in {'the weights' if path in stored else 'the model'}")
        elif stored[path] != wanted[path]:
            field = _first(_CONFIG_FIELDS, f"{path}:{_differing_axis(stored[path], wanted[path])}")
            problems.append(f"{path} is {list(stored[path])} in the weights, {list(wanted[path])} in the model")
        else:
            continue
        fields[field] = None
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise WeightsError(
            f"{source} has another geometry than the config (change {', '.join(fields)}): "
            + "; ".join(problems[:20])
            + more
        )


def _differing_axis(a: tuple[int, ...], b: tuple[int, ...]) -> int | str:
    return "rank" if len(a) != len(b) else next(i for i, (m, n) in enumerate(zip(a, b, strict=True)) if m != n)


def _first(table: tuple[tuple[str, str], ...], name: str) -> str:
    return next((field for pattern, field in table if re.fullmatch(pattern, name)), "the config")


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
