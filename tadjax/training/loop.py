"""The training loop."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from tadjax import ending
from tadjax.backbones.vit import Clips
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.data.dataset import Dataset
from tadjax.data.loader import DeviceBatches, share_of, steps_per_epoch, to_device, train_batches
from tadjax.data.recipe import rates
from tadjax.data.records import usual_canvas
from tadjax.detections.results import write_results
from tadjax.errors import TadjaxError
from tadjax.files import write_whole
from tadjax.inference.evaluate import Evaluator, table
from tadjax.localizer import Batch, Localizer
from tadjax.parallel import hosts
from tadjax.parallel import mesh as meshes
from tadjax.parallel.shard import spread
from tadjax.training import fidelity
from tadjax.training.arrival import Arrival
from tadjax.training.fidelity import Records
from tadjax.training.log import Clock, MetricsLog, Spikes, Trace, progress
from tadjax.training.optimizer import HELD, group_of, make_optimizer, path_of, schedules
from tadjax.training.state import TrainState, create, make_train_step, split
from tadjax.workdir import data_record
from tadjax.workdir.checkpoint import Checkpoints, load_frozen, save_frozen
from tadjax.workdir.locking import alone
from tadjax.workdir.run import (
    Params,
    abstract_params,
    check_weights,
    check_workdir,
    initial_params,
    write_classes,
)


@alone
@hosts.signals_restored()
def train(
    config: Any,
    workdir: pathlib.Path,
    *,
    start: Params | None = None,
    index: pathlib.Path | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Trains what `config` describes, evaluating on the way; returns the last evaluation.

    start: collections of parameters to begin with, in place of pre-trained or random ones. index: where what is known
    of the videos' files is kept, WORKDIR/index if not given. profile_steps: the first and the last step that JAX's
    profiler traces, into WORKDIR/profile.

    Started again on the same workdir it goes on from the newest checkpoint, and ends with the same bits as a run that
    was never stopped; of a finished run it says so, and in any case that the data changed meanwhile. SIGTERM saves and
    returns early; afterwards it ends the process again. A run that is at work in the workdir already is a TadjaxError.
    """
    start, index = start or {}, index or workdir / "index"
    dataset = Dataset(config)
    classes, width = dataset.classes, dataset.feature_width
    if "backbone" not in start and not (workdir / "checkpoints").exists():  # otherwise the run has its backbone already
        check_weights(config)
    mesh = meshes.make_mesh(config.mesh)
    meshes.check_batch(config.optim, mesh)
    # A config that is refused here leaves no workdir behind.
    localizer = spread(build(config, len(classes), feature_width=width), mesh)
    with hosts.in_order():
        check_workdir(config, workdir)
        write_classes(workdir, classes)
        for line in data_record.changes(dataset, workdir) if hosts.is_first() else ():
            hosts.say(line)
    if (evaluation := data_record.finished(workdir)) is not None:
        hosts.say(data_record.told(workdir, evaluation))
        return evaluation
    for line in dataset.training.summary():
        hosts.say(line)
    lower = fidelity.configs(config)
    with hosts.in_order():  # process 0 indexes the videos for all
        streams = {name: dataset.training_set(index, at) for name, at in lower.items()}
    first = next(iter(streams.values()))
    if first.canvas > usual_canvas(first.short_side):
        height, width = first.canvas
        hosts.say(f"all training pictures are padded to {height} x {width} pixels, the size of {first.widest.path}")
    if first.sampling.method != "resize":
        for line in rates([source.info.fps for source in first.sources]):
            hosts.say(line)
    epoch = steps_per_epoch(first, config.optim.batch_size)
    records = fidelity.Stream(streams, fidelity.schedule(config.lofi, epoch), config.optim.batch_size)

    evaluator = Evaluator(dataset, localizer, mesh, index)
    tx = make_optimizer(config.optim, epoch)
    train_step = step_of_any_shape(
        {
            (streams[name].sampling.frames, at.window.size): step_of(
                at, spread(build(at, len(classes), feature_width=width), mesh), tx
            )
            for name, at in lower.items()
        }
    )
    keep = {"keep_last": config.train.keep_last, "keep_best": config.train.keep_best}
    saving = ending.saving(hosts.ask_to_stop)  # also while the last checkpoint is still being written
    with saving, contextlib.closing(Checkpoints(workdir, **keep)) as checkpoints, hosts.together():
        state = initial_state(config, localizer, tx, mesh, workdir, checkpoints, start)
        step = int(state.step)
        hosts.say(describe(state, config, localizer, len(records), epoch, step))
        log = MetricsLog(workdir, step, config.train.wandb, config.to_dict())
        videos = [video.name for video in dataset.training.videos]
        lr, trace = learning_rates(config, epoch), Trace(workdir, profile_steps)
        with contextlib.closing(Watch(config, workdir, videos, log, lr, trace)) as watch:
            arrival = Arrival(config, mesh, {streams[name].shape: at.window.size for name, at in lower.items()})
            batches = load_batches(config, records, arrival, step, config.optim.epochs * epoch)
            return loop(config, workdir, state, train_step, batches, evaluator, checkpoints, watch, epoch)


def step_of(config: Any, localizer: Localizer, tx: optax.GradientTransformation) -> Callable:
    """The train step of a config."""
    return make_train_step(
        localizer,
        tx,
        ema_decay=config.optim.ema_decay,
        accumulate=config.optim.accumulate,
        rng_seed=config.seed,
    )


def step_of_any_shape(steps: dict[tuple[int, int], Callable]) -> Callable:
    """The train step of every fidelity in one, by the number and the side of the frames [B, T, side, side, 3]."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        return steps[batch["frames"].shape[1:3]](state, batch)

    return train_step if len(steps) > 1 else next(iter(steps.values()))


def load_batches(config: Any, records: Records, arrival: Arrival, step: int, last_step: int) -> DeviceBatches:
    """The batches from `step` on, decoded by worker processes ahead of time, as the train step takes them."""
    sharding = meshes.batch_sharding(arrival.mesh)
    size, share = config.optim.batch_size, share_of(sharding, config.optim.batch_size)
    options = {"workers": config.data.workers, "prefetch": config.data.prefetch, "share": share}
    batches = train_batches(records, size, start_step=step, stop_step=last_step, **options)
    return to_device(batches, sharding, config.data.device_batches, arrival)


def loop(
    config: Any,
    workdir: pathlib.Path,
    state: TrainState,
    train_step: Callable,
    batches: DeviceBatches,
    evaluator: Evaluator,
    checkpoints: Checkpoints,
    watch: "Watch",
    epoch: int,
) -> dict[str, float]:
    """Step by step from `state` to the last epoch, or to SIGTERM; returns the last evaluation."""
    train_step = jax.jit(train_step, donate_argnums=0)
    sigterm = hosts.Sigterm()
    step, last_step = int(state.step), config.optim.epochs * epoch
    evaluation = checkpoints.metrics(step) or {}

    def settle(stop: bool) -> bool:
        """Evaluates and saves after a step, where it is time to; whether to `stop` now, or SIGTERM came meanwhile."""
        nonlocal evaluation
        due, found = evaluates_after(config, step, epoch), None
        if due and not stop:
            watch.flush()
            with watch.clock("evaluation"):
                found = evaluator({**state.frozen, **weights_of(state, config)}, sigterm.now)
            stop = found is None
        if found:
            evaluation, detections = found
            hosts.say(f"step {step} (epoch {step / epoch:g})\n{table(evaluation)}")
            watch.log.write(step, evaluation)
            if hosts.is_first():
                write_results(workdir / "results.json", detections, evaluator.classes)
        if due or stop or step % config.train.checkpoint_every == 0:
            with watch.clock("checkpoint"):
                checkpoints.save(state, evaluation if found else None)
        return stop

    with batches, progress("training", last_step, step) as advance:
        stop = step > 0 and not evaluation and settle(False)  # SIGTERM came before this step was evaluated
        for batch in () if stop else batches:
            watch.clock.add("input", batches.waited)
            watch.clock.add("dispatch", batches.moving)
            step += 1
            with watch.trace(step), watch.clock("dispatch"):  # and compiling, before the first step of each shape
                state, metrics = train_step(state, batch)
            advance(watch.after(step, metrics, batch))
            if not config.data.device_batches:
                del batch  # and wait, so that the next one finds no step at work when it comes to the devices
                with watch.clock("device"):
                    jax.block_until_ready(state)
            stop = settle(sigterm.now())
            if stop:
                break
    if stop:
        checkpoints.wait()
        hosts.say(
            f"{'Ctrl-C' if ending.asked() else 'SIGTERM'}: saved at step {step}; the same command goes on from there"
        )
    watch.flush()
    watch.log.write(step, watch.clock.lap())  # of the last evaluation and checkpoint
    if step == last_step and not stop and hosts.is_first():
        write_whole(workdir / "metrics.json", json.dumps({"step": step, **evaluation}, indent=2) + "\n")
    return evaluation


def initial_state(
    config: Any,
    localizer: Localizer,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    start: Params | None = None,
) -> TrainState:
    """The newest checkpoint's state, or a new one (from `start`, as far as given); arrays made where they will lie."""
    like = abstract_state(config, localizer, tx, mesh)
    if checkpoints.steps():
        restored = checkpoints.restore(like)
        if restored is not None:
            return restored.replace(frozen=load_frozen(workdir, like.frozen))
    params, trained = initial_params(config, localizer, mesh, start), configs.trained_collections(config)
    save_frozen(workdir, split(params, trained)[1])
    out_shardings = jax.tree.map(lambda a: a.sharding, like)
    new = jax.jit(
        lambda params: create(params, trained, localizer, tx, config.optim.ema_decay), out_shardings=out_shardings
    )
    return new(params)


def abstract_state(
    config: Any, localizer: Localizer, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of a config's state."""
    params, trained = abstract_params(config, localizer, mesh), configs.trained_collections(config)
    shapes = jax.eval_shape(lambda params: create(params, trained, localizer, tx, config.optim.ema_decay), params)
    placed = meshes.shardings(shapes, mesh)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, placed)


def evaluates_after(config: Any, step: int, epoch: int) -> bool:
    """Whether an evaluation follows this step: after every so many epochs, not before the first one that counts, and at
    the very end."""
    done, into = divmod(step, epoch)
    if into:
        return False
    first, every = config.train.eval_from_epoch, config.train.eval_every_epochs
    return done == config.optim.epochs or (done >= max(first, 1) and done % every == 0)


def weights_of(state: TrainState, config: Any) -> dict:
    """What is evaluated: the averaged weights, unless the config averages none."""
    return state.ema if config.optim.ema_decay else state.trained


def learning_rates(config: Any, epoch: int) -> dict[str, np.ndarray]:
    """The learning rate of every group after every number of updates, worked out once: on a device each value of a
    schedule is a handful of tiny programs, and waiting for one of them is waiting for the training step before it."""
    steps = np.arange(config.optim.epochs * epoch)
    groups = schedules(config.optim, epoch)
    return {name: jax.device_get(jax.jit(jax.vmap(rate))(steps)) for name, rate in groups.items()}


class Watch:
    """Looks at each step's metrics one step late, so that the host never waits for the device's last step."""

    def __init__(
        self,
        config: Any,
        workdir: pathlib.Path,
        videos: list[str],
        log: MetricsLog,
        rates: dict[str, np.ndarray],
        trace: Trace,
    ):
        self.clock = Clock()
        self.log = log
        self.trace = trace
        self._config, self._workdir, self._videos, self._rates = config, workdir, videos, rates
        self._pending: tuple | None = None
        self._skipped: list[dict] = []
        self._spikes = Spikes(config.train.spike_factor)
        self._steps = 0
        self._text = ""

    def close(self) -> None:
        self.trace.close()
        self.log.close()

    def after(self, step: int, metrics: dict, batch: Batch) -> str | None:
        """Takes note of a step; the text for the progress bar, about the step before."""
        metrics = {**metrics, "substituted_frames": batch["substituted"].sum()}
        self.trace.after(step, metrics)
        previous, self._pending = self._pending, (step, metrics, batch["video"])
        return self._look(*previous) if previous else None

    def flush(self) -> None:
        if self._pending:
            self._look(*self._pending)
            self._pending = None

    def _look(self, step: int, metrics: dict, videos: jax.Array) -> str:
        with self.clock("device"):
            numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        updates = int(numbers.pop("updates"))  # not step - 1: a skipped step does not move the schedules on
        self._steps += 1
        if numbers["skipped"]:
            self._note_skipped(step, numbers, videos)
        else:
            self._skipped = []
            self._note_spike(step, numbers["loss"], videos)
        if step % self._config.train.log_every == 0:
            lap = self.clock.lap()
            rates = {f"lr/{name}": float(rate[updates]) for name, rate in self._rates.items()}
            speed = {"steps_per_second": self._steps / lap["seconds/all"]}
            with self.clock("log"):
                self.log.write(step, {**numbers, **rates, **speed, **lap})
            waiting = 100 * lap.get("seconds/input", 0.0) / lap["seconds/all"]
            self._text = f"{speed['steps_per_second']:.2f} steps/s, {waiting:.0f} % waiting for data"
            self._steps = 0
        lr = self._rates["head_no_decay"][updates]
        return f"loss {numbers['loss']:.4f}, lr {lr:.1e}, {self._text}"

    def _note_spike(self, step: int, loss: float, videos: jax.Array) -> None:
        median = self._spikes(loss)
        if median is not None:
            line = {"step": step, "loss": loss, "median": median, "videos": self._names(videos)}
            self.log.spike(line)
            hosts.say(f"step {step}: loss {loss:.4g}, of late {median:.4g}; videos {', '.join(line['videos'])}")

    def _names(self, videos: jax.Array) -> list[str]:
        return [self._videos[i] for i in hosts.all_rows(videos)]

    def _note_skipped(self, step: int, numbers: dict, videos: jax.Array) -> None:
        names = self._names(videos)
        self._skipped.append({"step": step, "loss": repr(numbers["loss"]), "videos": names})
        hosts.say(f"step {step} skipped: loss or gradient is not finite, videos {', '.join(names)}")
        if numbers["skipped"] >= self._config.train.max_skipped:
            path = self._workdir / "not_finite.json"
            if hosts.is_first():
                with contextlib.suppress(OSError):  # what is wrong with the run counts more
                    write_whole(path, json.dumps(self._skipped, indent=2) + "\n")
            raise TadjaxError(
                f"loss or gradient was not finite in {len(self._skipped)} steps in a row, up to step {step}; their "
                f"videos stand in {path}. A lower learning rate or config.dtype=float32 is the usual cure"
            )


def describe(state: TrainState, config: Any, localizer: Localizer, records: int, epoch: int, step: int) -> str:
    """What is about to be trained, in a few lines."""
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.trained)[0]:
        group = group_of(path_of(path))
        counts[group] = counts.get(group, 0) + leaf.size
    frozen = sum(leaf.size for leaf in jax.tree.leaves(state.frozen)) + counts.pop(HELD, 0)
    trained = ", ".join(f"{group} {count:,}" for group, count in counts.items())
    start = f", resuming at step {step:,}" if step else ""
    attention = f"; attention: {localizer.backbone.attention}" if isinstance(localizer.backbone, Clips) else ""
    return (
        f"{config.data.name}: {records} windows, {epoch} steps an epoch, {config.optim.epochs} epochs{start}\n"
        f"trained parameters: {trained}; frozen: {frozen:,}; devices: {jax.device_count()} {jax.default_backend()}"
        f"{attention}"
    )
