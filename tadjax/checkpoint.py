"""What a run keeps on disk, and how it comes back exactly.

    WORKDIR/config.json, classes.txt   what was trained
    WORKDIR/frozen/                    the frozen collections, written once
    WORKDIR/checkpoints/STEP/          trained (float32), ema, resume (optimizer, head state, counters), metrics

Orbax writes asynchronously, each step into a temporary directory that is renamed when complete: a killed process leaves
whole checkpoints only.
"""

import pathlib
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from tadjax.errors import WeightsError
from tadjax.parallel import hosts
from tadjax.training.state import TrainState
from tadjax.weights import check_geometry, shapes

METRIC = "average_mAP"
RESUME = ("step", "skipped", "optimizer", "head_state")  # what evaluation does not need


class Checkpoints:
    """The checkpoints of one run. All processes construct it and call `save` and `restore` alike.

    keep_last: newest checkpoints kept; keep_best: those of the highest average mAP kept beside them.
    """

    def __init__(self, workdir: pathlib.Path, *, keep_last: int = 2, keep_best: int = 1, read_only: bool = False):
        self.workdir = pathlib.Path(workdir).resolve()
        policies = [checkpoint_managers.LatestN(keep_last)]
        if keep_best:
            best = checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics[METRIC], n=keep_best, keep_checkpoints_without_metrics=False
            )
            policies.append(best)
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
        """Starts writing the state at its step; returns before it is on disk. `metrics` rank the best."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {
            "trained": ocp.args.StandardSave(state.trained),
            "ema": ocp.args.StandardSave(state.ema),
            "resume": ocp.args.StandardSave({name: getattr(state, name) for name in RESUME}),
        }
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest complete state, sharded as `like` (arrays or ShapeDtypeStructs with shardings); None without one.

        `like.frozen` is passed through. A damaged checkpoint is reported, removed, and the one before is taken.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            items = {
                "trained": ocp.args.StandardRestore(_abstract(like.trained)),
                "ema": ocp.args.StandardRestore(_abstract(like.ema)),
                "resume": ocp.args.StandardRestore(_abstract({name: getattr(like, name) for name in RESUME})),
            }
            try:
                found = self._manager.restore(step, args=ocp.args.Composite(**items))
            except (OSError, ValueError, KeyError) as error:
                reason = _first_line(error)
                print(f"{self.workdir}/checkpoints/{step} is damaged and removed: {reason}", file=sys.stderr)
                self._manager.delete(step)
                continue
            return like.replace(trained=found["trained"], ema=found["ema"], **found["resume"])
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
        try:
            check_geometry(shapes(self._manager.item_metadata(step)[item].tree), shapes(like), source)
            args = ocp.args.Composite(**{item: ocp.args.StandardRestore(_abstract(like))})
            return self._manager.restore(step, args=args)[item], step
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise WeightsError(f"{source} is damaged: {_first_line(error)}") from error

    def metrics(self, step: int) -> dict[str, float] | None:
        return self._manager.metrics(step)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def save_frozen(workdir: pathlib.Path, frozen: dict) -> None:
    """Writes the frozen collections once; does nothing if they are there or nothing is frozen."""
    target = pathlib.Path(workdir).resolve() / "frozen"
    if not jax.tree.leaves(frozen) or hosts.of_first(target.exists()):
        return
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, frozen)


def load_frozen(workdir: pathlib.Path, like: dict) -> dict:
    """The frozen collections, sharded as `like`. WeightsError if they are missing or of another geometry."""
    source = pathlib.Path(workdir).resolve() / "frozen"
    if not jax.tree.leaves(like):  # the backbone of features on disk has no parameters
        return like
    if not source.exists():
        raise WeightsError(f"{source} does not exist: is {workdir} the --workdir of a run?")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            check_geometry(shapes(checkpointer.metadata(source).item_metadata.tree), shapes(like), str(source))
            return checkpointer.restore(source, _abstract(like))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{source} is damaged: {_first_line(error)}") from error


def _abstract(tree: Any) -> Any:
    def leaf(a: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=getattr(a, "sharding", None))

    return jax.tree.map(leaf, tree)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
