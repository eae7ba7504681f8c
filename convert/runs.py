"""Whole detectors as runs: a converted checkpoint that tadjax.main evaluates and predicts with, and the way back.

RUN/config.json, classes.txt, frozen/, checkpoints/0/     as training writes them (tadjax/workdir/checkpoint.py)
RUN/weights.json, unused/                                 as in converted weights (tadjax/workdir/weights.py)
"""

import ast
import pathlib
import runpy
from typing import Any

import jax
import numpy as np

from convert.mapping import flat, nested
from convert.output import save_tree
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.config import recipes
from tadjax.data.annotations import read_classes
from tadjax.data.dataset import Dataset
from tadjax.errors import ConfigError, WeightsError
from tadjax.localizer import Localizer
from tadjax.training.optimizer import make_optimizer
from tadjax.training.state import create, split
from tadjax.workdir import weights
from tadjax.workdir.checkpoint import Checkpoints
from tadjax.workdir.run import write_classes


def load_config(file: str, overrides: list[str]) -> Any:
    """The config of a file of configs/ ("FILE:variant" too), with overrides such as --config.data.classes=FILE."""
    recipes.make_importable()
    path, _, variant = recipes.locate(file).partition(":")
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"--config={file}: no such file")
    config = runpy.run_path(path)["get_config"](*[variant] if variant else [])
    given = {}
    for override in overrides:
        name, equals, value = override.removeprefix("--config.").partition("=")
        if not override.startswith("--config.") or not equals:
            raise ConfigError(f"unexpected argument {override}; overrides look like --config.data.classes=FILE")
        given[name] = value
    configs.check_names(list(given))
    known = dict(configs.fields(config))
    values = {n: v if isinstance(known[n], str) else _literal(v) for n, v in given.items()}
    try:
        config.update_from_flattened_dict(values)
    except TypeError as error:
        raise ConfigError(f"{error}; a config file may give a field another type, an override cannot") from error
    configs.check(config)
    return config


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # the check of the config says what is wrong with it


def check_against(
    config: Any, shapes: dict[str, tuple[int, ...]], geometry: dict[str, Any], source: str
) -> tuple[Localizer, tuple[str, ...]]:
    """The config's model and classes; WeightsError lists what of the source is of another geometry, and the fields."""
    whole = "head" in geometry
    classes = class_names(config) if whole else ("",)
    localizer = build(config, len(classes))
    wanted = jax.eval_shape(localizer.init, jax.random.key(0))
    wanted = {name: tree for name, tree in wanted.items() if whole or name in geometry}
    ours = {path: shape for path, shape in shapes.items() if not path.startswith("state/")}
    weights.check_geometry(ours, weights.shapes(wanted), source)
    # What no shape tells.
    layers, image = geometry.get("adapter", {}).get("layers"), geometry.get("backbone", {}).get("image")
    if layers is not None and tuple(layers) != localizer.layers:
        raise WeightsError(f"{source} adapts layers {layers}, config.adaptation.layers says {list(localizer.layers)}")
    if image is not None and image != config.backbone.image:
        raise WeightsError(
            f"{source}: its positions are those of pictures of {image} x {image} pixels; "
            f"config.backbone.image = {config.backbone.image}"
        )
    return localizer, classes


def class_names(config: Any) -> tuple[str, ...]:
    """Class names in the order of the labels, which must be the source's; the class file alone is enough."""
    if config.data.classes and pathlib.Path(config.data.classes).is_file() and not config.data.class_agnostic:
        return read_classes(config.data.classes)
    return Dataset(config).classes


def write_run(folder: pathlib.Path, config: Any, classes: tuple[str, ...], localizer: Localizer, arrays: dict) -> None:
    """Fills a new folder with what a run has before its first step. arrays: LazyArrays by path.

    The frozen collections keep the source's dtype; the trained ones, their average and the optimizer begin with them.
    """
    configs.save(config, folder / "config.json")
    write_classes(folder, classes)
    trained = configs.trained_collections(config)
    made, lazy = {}, {}
    for path, array in arrays.items():
        if path.partition("/")[0] in (*trained, "state"):
            made[path] = np.asarray(array.make(), np.float32)
        else:
            lazy[path] = array
    if lazy:
        save_tree(folder / "frozen", lazy)
    params, _ = split(nested(made), trained)
    tx = make_optimizer(config.optim, 1)
    state = jax.jit(lambda p: create(p, trained, localizer, tx, config.optim.ema_decay))(params)
    head_state = nested(made).get("state", {})
    state = state.replace(head_state={name: head_state.get(name, value) for name, value in state.head_state.items()})
    checkpoints = Checkpoints(folder)
    checkpoints.save(jax.tree.map(jax.numpy.asarray, state))
    checkpoints.close()


def read_run(directory: pathlib.Path, restore: Any) -> tuple[dict[str, np.ndarray], int, Any, Localizer]:
    """(arrays by path, step, config, localizer) of a run: its best checkpoint, averaged where it keeps averages."""
    config = configs.load(directory / "config.json")
    classes = (directory / "classes.txt").read_text().splitlines()
    localizer = build(config, len(classes))
    trained = configs.trained_collections(config)
    shapes = jax.eval_shape(localizer.init, jax.random.key(0))
    like, frozen = split(shapes, trained)
    checkpoints = Checkpoints(directory, read_only=True)
    found, step = checkpoints.weights(like, ema=config.optim.ema_decay > 0)
    checkpoints.close()
    arrays = {path: np.asarray(array) for path, array in flat(found).items()}
    head_state = restore(directory / "checkpoints" / str(step) / "resume")["head_state"]
    arrays |= {f"state/{name}": np.asarray(value) for name, value in head_state.items()}
    if jax.tree.leaves(frozen):
        arrays |= flat(restore(directory / "frozen"))
    return arrays, step, config, localizer
