"""A run's directory as a whole: config, classes and weights, as training begins with them and as others read them."""

import dataclasses
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from tadjax.config import checks as configs
from tadjax.data.annotations import (
    UNKNOWN_BLOCKED,
    Annotations,
    Defect,
    known_names,
    load_annotations,
    parse_database,
    read_database,
    read_names,
)
from tadjax.data.annotations import read_classes as read_class_file
from tadjax.data.built import read_built
from tadjax.data.features import differences, read_rules, rules_of
from tadjax.data.records import sampling_of
from tadjax.errors import ConfigError, DataError
from tadjax.files import write_whole
from tadjax.localizer import Localizer, build
from tadjax.parallel import hosts
from tadjax.parallel import mesh as meshes
from tadjax.training.state import split
from tadjax.workdir import weights
from tadjax.workdir.checkpoint import Checkpoints, load_frozen

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run learned: its config, class names in the order of the labels, all params, and their step."""

    config: Any
    classes: tuple[str, ...]
    localizer: Localizer
    params: Params
    step: int


def keep_compiled() -> None:
    """Compiled programs are kept in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "tadjax"))


def load_run(config: Any, workdir: pathlib.Path, *, best: bool = True) -> Run:
    """The best (or newest) checkpoint of a run, averaged where it keeps averages. Errors name what is missing."""
    classes = read_classes(workdir)
    localizer = build(config, len(classes))
    mesh = meshes.make_mesh(config.mesh)
    like, frozen_like = split(abstract_params(config, localizer, mesh), configs.trained_collections(config))
    checkpoints = Checkpoints(workdir, read_only=True)
    trained, step = checkpoints.weights(like, ema=config.optim.ema_decay > 0, best=best)
    checkpoints.close()
    return Run(config, classes, localizer, {**load_frozen(workdir, frozen_like), **trained}, step)


def on_videos(run: Run) -> Run:
    """A run that was trained on the features of `--mode=extract`, with the backbone that made them: it takes videos.

    Raises ConfigError where the features are not of that backbone, as the config has it now, or of none here.
    """
    folder = run.config.features.path
    rules = read_rules(pathlib.Path(folder))
    if rules is None:
        raise ConfigError(
            f"config.features.path = {folder}: this run knows published features only; there is no backbone here that "
            "makes them of a video"
        )
    config = backbone_alone(run.config)
    localizer, mesh = build(config, len(run.classes)), meshes.make_mesh(config.mesh)
    check_weights(config)
    backbone = initial_params(config, localizer, mesh)["backbone"]
    here = rules_of(config, sampling_of(config, train=False), localizer.backbone.width, weights.digest(backbone))
    differing = differences(here, rules, but=("rule", "dtype", "window_features"))
    if differing:
        raise ConfigError(
            f"config.features.path = {folder}: these features were not made as this config would make them now:\n  "
            + "\n  ".join(differing)
        )
    return Run(config, run.classes, localizer, {**run.params, "backbone": backbone}, run.step)


def backbone_alone(config: Any) -> Any:
    """The config of its backbone without adapters, of videos, on the devices of this machine."""
    alone = config.copy_and_resolve_references()
    with alone.unlocked():
        alone.adaptation.method, alone.features.path = "none", ""
        alone.mesh.data, alone.mesh.clip, alone.mesh.fsdp = -1, 1, 1
    return alone


def abstract_params(config: Any, localizer: Localizer, mesh: jax.sharding.Mesh) -> Params:
    """Shapes, dtypes and shardings of all collections: what is frozen in the compute dtype, what is trained float32."""
    shapes = jax.eval_shape(localizer.init, jax.random.key(0))
    trained = configs.trained_collections(config)
    dtypes = {name: jnp.float32 if name in trained else jnp.dtype(config.dtype) for name in shapes}
    placed = meshes.shardings(shapes, mesh)
    return {
        name: jax.tree.map(
            lambda a, s, dtype=dtypes[name]: jax.ShapeDtypeStruct(a.shape, dtype, sharding=s), tree, placed[name]
        )
        for name, tree in shapes.items()
    }


def initial_params(config: Any, localizer: Localizer, mesh: jax.sharding.Mesh, start: Params | None = None) -> Params:
    """The parameters that training starts from, made where they will lie: random, but for the pre-trained backbone and
    the collections of `start`."""
    like = abstract_params(config, localizer, mesh)
    backbone, given = config.backbone, {}
    for name, tree in (start or {}).items():
        if name in like:
            given[name] = jax.tree.map(lambda a, l: jax.device_put(a.astype(l.dtype), l.sharding), tree, like[name])
    if not (backbone.random_init or config.features.path or "backbone" in given):
        given["backbone"] = weights.load_backbone(backbone.weights, like["backbone"], image=backbone.image)
    wanted = {name: tree for name, tree in like.items() if name not in given}

    def init(key: jax.Array) -> Params:
        params = localizer.init(key)
        return {name: jax.tree.map(lambda a, l: a.astype(l.dtype), params[name], like[name]) for name in wanted}

    out_shardings = jax.tree.map(lambda l: l.sharding, wanted)
    params = jax.jit(init, out_shardings=out_shardings)(jax.random.key(config.seed)) if wanted else {}
    return {**params, **given}


def check_weights(config: Any) -> None:
    """ConfigError if the config names no weights and does not say that random ones are wanted; WeightsError if they
    are not there."""
    backbone = config.backbone
    if backbone.random_init or config.features.path:
        return
    if not backbone.weights:
        raise ConfigError(
            "config.backbone.weights names no pre-trained weights. Convert some with convert/torch_to_flax.py and set "
            "it to their folder, or set config.backbone.random_init=True if random weights are wanted"
        )
    weights.read_info(backbone.weights)


def check_workdir(config: Any, workdir: pathlib.Path) -> None:
    """Writes config.json into a new workdir; refuses one that belongs to another config, naming the fields.

    Of several processes only process 0 writes; the others hold what it wrote against their own config.
    """
    path = workdir / "config.json"
    if path.exists():
        different = configs.differences(config, configs.load(path))
        if different:
            raise ConfigError(
                f"{workdir} belongs to a run of another config; give another --workdir. Fields that differ:\n  "
                + "\n  ".join(different)
            )
    if hosts.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        configs.save(config, path)
    elif not path.exists():
        raise ConfigError(
            f"--workdir={workdir}: process {hosts.index()} does not see there what process 0 writes; "
            "give a folder of a file system that all hosts share"
        )


def decide_classes(config: Any) -> tuple[str, ...]:
    """The class names of a config: from its file, or derived from the annotations; one for class-agnostic models."""
    if config.data.class_agnostic:
        return ("action",)
    if config.data.tfds:
        return read_built(config.data.tfds).classes
    for field, path in (("annotations", config.data.annotations), ("classes", config.data.classes)):
        if path and not pathlib.Path(path).exists():
            raise DataError(f"config.data.{field}: {path} does not exist; docs/data.md says what to put there")
    if not config.data.annotations:
        raise ConfigError("config.data.annotations is empty: give the data set's JSON file")
    return load_annotations(config.data.annotations, config.data.train_subset, config.data.classes or None).classes


def read_subset(config: Any, subset: str, classes: tuple[str, ...]) -> Annotations:
    """The annotations of a config's subset, without the videos it blocks.

    Class-agnostic models keep the labels of the file here; sampling makes them all 0.
    """
    data = config.data
    if data.tfds:
        database = read_built(data.tfds).database
        found = read_built(data.tfds).annotations(subset, None if data.class_agnostic else classes)
    else:
        classes = (data.classes or None) if data.class_agnostic else classes
        database = read_database(data.annotations)
        found = parse_database(database, subset, classes, str(data.annotations))
    blocked, unknown = read_blocked(config, database)
    told = () if data.tfds else tuple(Defect(data.blocked, name, None, UNKNOWN_BLOCKED, subset) for name in unknown)
    videos = tuple(video for video in found.videos if video.name not in blocked)
    return dataclasses.replace(found, videos=videos, warnings=found.warnings + told)


def read_blocked(config: Any, videos: Collection[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Which `videos` config.data.blocked leaves out, and the names in it that are of none; nothing without a file."""
    if not config.data.blocked:
        return frozenset(), ()
    try:
        return known_names(read_names(config.data.blocked), videos)
    except DataError as error:
        raise DataError(
            f"config.data.blocked: {error}; it lists videos to leave out, one name a line. "
            "python -m tadjax.prepare writes it; set it to '' if none are missing"
        ) from None


def write_classes(workdir: pathlib.Path, classes: tuple[str, ...]) -> None:
    if hosts.is_first():
        write_whole(workdir / "classes.txt", "\n".join(classes) + "\n")


def read_classes(workdir: pathlib.Path) -> tuple[str, ...]:
    path = workdir / "classes.txt"
    if not path.exists():
        raise DataError(f"{path} does not exist: is {workdir} the --workdir of a run?")
    return read_class_file(path)
