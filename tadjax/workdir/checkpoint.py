"""What a run keeps on disk, and how it comes back exactly.

    WORKDIR/config.json, classes.txt   what was trained
    WORKDIR/frozen/                    the frozen collections, written as a run begins; frozen.checksums.json
    WORKDIR/checkpoints/STEP/          trained (float32), ema if any, resume (optimizer, head state, counters), metrics

    WORKDIR/damaged/STEP/              checkpoints that could not be read, set aside

Orbax writes asynchronously, each step into a temporary directory that is renamed when complete: a killed process leaves
whole checkpoints only. Its files notice when they are cut short, but not every flipped bit: so checksums of the numbers
go with each step, and are compared when they come back.
"""

import contextlib
import itertools
import json
import pathlib
import shutil
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from tadjax import ending
from tadjax.errors import DiskError, WeightsError, first_line
from tadjax.files import write_whole
from tadjax.parallel import hosts
from tadjax.training.state import TrainState
from tadjax.workdir import checksums
from tadjax.workdir.weights import check_geometry, reading, shapes

METRIC = "average_mAP"
RESUME = ("step", "skipped", "optimizer", "head_state")  # what evaluation does not need


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


class Checkpoints:
    """The checkpoints of one run. All processes construct it and call `save` and `restore` alike.

    keep_last: newest checkpoints kept; keep_best: those of the highest average mAP kept beside them.
    """

    def __init__(self, workdir: pathlib.Path, *, keep_last: int = 2, keep_best: int = 1, read_only: bool = False):
        self.workdir = pathlib.Path(workdir).resolve()
        self._read_only = read_only
        policies = [checkpoint_managers.LatestN(keep_last)]
        if keep_best:
            best = checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics[METRIC], n=keep_best, keep_checkpoints_without_metrics=False
            )
            policies.append(best)
        with hosts.in_order():
            self._check_metrics()
        with _no_warnings():  # of what read_only means
            options = ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=lambda metrics: metrics[METRIC],
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            )
            self._manager = ocp.CheckpointManager(
                self.workdir / "checkpoints",
                options=options,
                item_handlers={name: ocp.StandardCheckpointHandler() for name in ("trained", "ema", "resume")},
            )

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts writing the state at its step; returns before it is on disk. `metrics` rank the best.

        One that is there already stays, and is given its metrics if it has none yet. Raises DiskError where this
        checkpoint, or the one before, cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            if metrics and not self.metrics(step):
                self._add_metrics(step, metrics)
            return
        items = _items(state)
        args = ocp.args.Composite(**{name: ocp.args.StandardSave(item) for name, item in items.items()})
        custom = {"checksums": {name: checksum(item) for name, item in items.items()}}
        with writing(self.workdir):
            self._manager.save(step, args=args, metrics=metrics, force=True, custom_metadata=custom)

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest complete state, sharded as `like` (arrays or ShapeDtypeStructs with shardings); None without one.

        `like.frozen` is passed through. A damaged checkpoint is reported and set aside, and the one before is taken;
        WeightsError if there is none before it, rather than to begin anew unasked.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            found, reason = None, ""
            try:
                found = self._read(step, _items(like))
            except WeightsError as error:
                reason = str(error)
            if any(process["failed"] for process in hosts.gather({"failed": np.array(found is None)})):
                with hosts.in_order():
                    self._set_aside(str(step), reason or f"{self.workdir}/checkpoints/{step} is damaged")
                self._manager.reload()
                continue
            return like.replace(trained=found["trained"], ema=found.get("ema", {}), **found["resume"])
        if steps:
            raise WeightsError(
                f"{self.workdir}: no checkpoint is whole; they lie in {self.workdir}/damaged now, and the same command "
                "begins at step 0"
            )
        return None

    def weights(self, like: dict, *, ema: bool = True, best: bool = True) -> tuple[dict, int]:
        """Trained collections for evaluation, and their step: the best checkpoint's, or the newest.

        Raises WeightsError if there is none, or if it holds other parameters than `like`.
        """
        step = (self._manager.best_step() if best else None) or self._manager.latest_step()
        if step is None:
            raise WeightsError(
                f"{self.workdir}/checkpoints holds no checkpoint: train first, or give another --workdir"
            )
        item = "ema" if ema else "trained"
        source = f"{self.workdir}/checkpoints/{step}/{item}"
        with reading(source):
            check_geometry(shapes(self._manager.item_metadata(step)[item].tree), shapes(like), source)
        return self._read(step, {item: like})[item], step

    def _read(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Items of a step, placed as `like`; WeightsError if they are not as they were saved."""
        source = f"{self.workdir}/checkpoints/{step}"
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in like.items()})
        with reading(source):
            found = self._manager.restore(step, args=args)
            recorded = (self._manager.metadata(step).custom_metadata or {}).get("checksums", {})
        for name in like:
            saved, read = recorded.get(name), checksum(found[name])
            if None not in (saved, read) and saved != read:
                raise WeightsError(f"{source} is damaged: the numbers in {name} are not those that were saved")
        return found

    def _check_metrics(self) -> None:
        """Orbax reads the metrics of all steps before anything else, and takes them for whole."""
        for file in sorted((self.workdir / "checkpoints").glob("[0-9]*/metrics/metrics")):
            try:
                json.loads(file.read_bytes())[METRIC]
            except (OSError, ValueError, KeyError, TypeError) as error:
                step = file.parents[1].name
                reason = f"{file} is damaged: {first_line(error)}"
                if self._read_only:
                    raise WeightsError(f"{reason}; move the folder of step {step} away") from error
                self._set_aside(step, reason)

    def _set_aside(self, step: str, reason: str) -> None:
        """Out of the way, not deleted: what looks like damage may be a disk that comes back, or too little memory."""
        if not hosts.is_first():
            return
        hosts.say(f"{reason}; set aside in {self.workdir}/damaged")
        beside = self.workdir / "damaged"
        beside.mkdir(exist_ok=True)
        free = next(name for n in itertools.count() if not (beside / (name := f"{step}.{n}" if n else step)).exists())
        (self.workdir / "checkpoints" / step).rename(beside / free)

    def _add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self.wait()
        with writing(self.workdir), hosts.in_order():
            if hosts.is_first():
                folder = self.workdir / "checkpoints" / str(step) / "metrics"
                folder.mkdir(exist_ok=True)
                write_whole(folder / "metrics", json.dumps(metrics))
        self._manager.reload()

    def metrics(self, step: int) -> dict[str, float] | None:
        return self._manager.metrics(step)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
        with writing(self.workdir):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with writing(self.workdir):
            self._manager.close()


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
    """Errors of a disk, as Orbax and TensorStore raise them, as a DiskError of one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:  # TensorStore's are ValueErrors
        if hosts.lost_another(error):  # while they agreed on the checkpoint; it is not the disk
            raise
        reason = first_line(error)
        if "o space left" in str(error) or "RESOURCE_EXHAUSTED" in reason:  # also as a file was cut short
            free = shutil.disk_usage(workdir).free / 2**20
            reason = f"no space left on device, {free:.1f} MiB are free"
        raise DiskError(
            f"{workdir}: a checkpoint cannot be written ({reason}); {ending.saved_in(workdir)} once that is put right"
        ) from error


def save_frozen(workdir: pathlib.Path, frozen: dict) -> None:
    """Writes the frozen collections, if anything is frozen, in place of those of a run that came to no checkpoint."""
    target = pathlib.Path(workdir).resolve() / "frozen"
    if not jax.tree.leaves(frozen):
        return
    if hosts.is_first():
        target.parent.mkdir(parents=True, exist_ok=True)
        checksums.write(target, checksums.of_tree(frozen))
    with writing(target.parent), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, frozen, force=True)


def load_frozen(workdir: pathlib.Path, like: dict) -> dict:
    """The frozen collections, sharded as `like`. WeightsError if they are missing, damaged or of another geometry."""
    source = pathlib.Path(workdir).resolve() / "frozen"
    if not jax.tree.leaves(like):  # the backbone of features on disk has no parameters
        return like
    if not source.exists():
        raise WeightsError(f"{source} does not exist: is {workdir} the --workdir of a run?")
    with reading(str(source)), ocp.StandardCheckpointer() as checkpointer:
        check_geometry(shapes(checkpointer.metadata(source).item_metadata.tree), shapes(like), str(source))
        frozen = checkpointer.restore(source, _abstract(like))
    checksums.verify(source, frozen)
    return frozen


def checksum(tree: Any) -> int | None:
    """CRC-32 of the numbers of a tree, leaf by leaf; None where this process does not hold them all."""
    leaves = jax.tree.leaves(tree)
    if not all(map(checksums.is_whole, leaves)):
        return None
    return zlib.crc32(np.array(checksums.crcs(leaves), np.uint32).tobytes())


def _items(state: TrainState) -> dict[str, Any]:
    """What of a state is saved, under which name."""
    resume = {name: getattr(state, name) for name in RESUME}
    return {"trained": state.trained, **({"ema": state.ema} if state.ema else {}), "resume": resume}


def _abstract(tree: Any) -> Any:
    def leaf(a: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=getattr(a, "sharding", None))

    return jax.tree.map(leaf, tree)
