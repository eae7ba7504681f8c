"""LoFi-E2E (Xu et al., NeurIPS 2021, figure 1) and its baselines as one job: stages that hand their weights on.

    WORKDIR/classify/   encoder and a classifier of feature steps, on the actions alone (the baseline ACP+)
    WORKDIR/warmup/     the head alone, encoder frozen, at low fidelity
    WORKDIR/encoder/    all that config.adaptation.method trains, end to end, at low fidelity
    WORKDIR/features/   what the encoder, frozen from now on, makes of every video at full fidelity
    WORKDIR/head/       a new head on them; head_lr_0.001/ ... where config.lofi.head_lrs lists rates
    WORKDIR/            the result, encoder and head together: a run that evaluate and predict take

Each stage is a call of the training loop (tadjax/training/loop.py) with a config that follows from the job's. A
finished stage is not done again and a killed one resumes: the same command goes on wherever the job was.
"""

import json
import pathlib
import signal
import sys
import threading
from typing import Any

import jax

from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.data.dataset import Dataset
from tadjax.files import write_whole
from tadjax.inference.extract import extract
from tadjax.parallel import hosts
from tadjax.parallel import mesh as meshes
from tadjax.training import fidelity
from tadjax.training.loop import train
from tadjax.training.optimizer import make_optimizer
from tadjax.training.state import create
from tadjax.workdir import data_record
from tadjax.workdir.checkpoint import METRIC, Checkpoints, save_frozen
from tadjax.workdir.locking import alone
from tadjax.workdir.run import Params, check_workdir, initial_params, load_run, write_classes

# Collections of parameters that the stages after it begin with. The head's last stage begins with a new head.
HANDED_ON = {"classify": ("backbone",), "warmup": ("head",), "encoder": ("adapter", "backbone", "head")}


@alone
@hosts.signals_restored()
def train_stages(config: Any, workdir: pathlib.Path) -> dict[str, float]:
    """Does the stages of config.lofi.stages that are left; returns the evaluation of the last, {} if stopped before."""
    stages = {stage: stage_config(config, stage, workdir) for stage in config.lofi.stages}
    for of_stage in stages.values():
        configs.check(of_stage)
    check_workdir(config, workdir)
    for line in data_record.changes(Dataset(config), workdir):
        print(line, file=sys.stderr)
    if (metrics := data_record.finished(workdir)) is not None:
        print(data_record.told(workdir, metrics), file=sys.stderr)
        return metrics
    params, metrics = {}, {}
    for stage, of_stage in stages.items():
        if stage == "head":
            make_features(config, workdir, params.get("backbone"))
            found = train_head(config, of_stage, workdir)
        else:
            start = {} if stage == "classify" else params
            last = stage == config.lofi.stages[-1]
            found = train_stage(of_stage, workdir / stage, workdir / "index", start, best=last)
        if found is None:
            return {}
        trained, metrics = found
        params |= {name: trained[name] for name in HANDED_ON.get(stage, ("head",)) if name in trained}
    join(config, workdir, params, metrics)
    return metrics


def stage_config(config: Any, stage: str, workdir: pathlib.Path) -> Any:
    """The config of one stage of a job."""
    of_stage = config.copy_and_resolve_references()
    lofi, optim, train = of_stage.lofi, of_stage.optim, of_stage.train
    lofi.stages = ()
    if stage in ("warmup", "head"):
        of_stage.adaptation.method = "none"
        optim.update(config.lofi.head_optim.to_dict())
    if stage == "classify":
        of_stage.head.name = "classifier"
        of_stage.adaptation.method = "full"
        of_stage.data.class_agnostic = False
        of_stage.classifier.path = ""
        lofi.schedule = "full" if lofi.schedule == "full" else "t"  # whole pictures
        optim.epochs = lofi.classify_epochs
    if stage == "warmup":
        optim.epochs = lofi.warmup_epochs
    if stage == "head":
        lofi.schedule = "full"
        of_stage.features.path = str(workdir / "features")
    if stage != config.lofi.stages[-1]:
        train.eval_from_epoch = optim.epochs  # only how far it came
    return of_stage


def train_stage(
    config: Any, folder: pathlib.Path, index: pathlib.Path, start: Params, *, best: bool
) -> tuple[Params, dict[str, float]] | None:
    """(params, evaluation) of a stage's best or last checkpoint, trained if they are not there; None if stopped."""
    if not (folder / "metrics.json").exists():
        print(f"-- {folder.name}", file=sys.stderr)
        train(config, folder, start=start, index=index)
        if not (folder / "metrics.json").exists():
            return None
    run = load_run(config, folder, best=best)
    checkpoints = Checkpoints(folder, read_only=True)
    metrics = checkpoints.metrics(run.step) or {}
    checkpoints.close()
    return run.params, metrics


def make_features(config: Any, workdir: pathlib.Path, backbone: Params | None) -> None:
    """WORKDIR/features: every video at full fidelity, as the encoder sees it (None: the config's). Whole files stay."""
    frozen = fidelity.at(config, "full")
    frozen.adaptation.method = "none"  # else it would look for a run of the encoder's own
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there is nothing to save: the stages before asked for that
    extract(frozen, workdir, backbone=backbone)


def train_head(config: Any, of_stage: Any, workdir: pathlib.Path) -> tuple[Params, dict[str, float]] | None:
    """The stage "head", once or for every rate of the search; the best of them, by average mAP as published."""
    rates = tuple(config.lofi.head_lrs)
    found = []
    for rate in rates or (of_stage.optim.head_lr,):
        one = of_stage.copy_and_resolve_references()
        one.optim.head_lr = float(rate)
        folder = workdir / (f"head_lr_{rate:g}" if rates else "head")
        found.append(train_stage(one, folder, workdir / "index", {}, best=True))
        if found[-1] is None:
            return None
    for rate, (_, metrics) in zip(rates, found, strict=False):
        print(f"config.lofi.head_lrs: {rate:g} gives an average mAP of {metrics[METRIC]:.2f}", file=sys.stderr)
    return max(found, key=lambda one: one[1][METRIC])


def join(config: Any, workdir: pathlib.Path, params: Params, metrics: dict[str, float]) -> None:
    """Writes what the stages learned as the checkpoint of a run of the job's own config."""
    classes = Dataset(config).classes
    mesh = meshes.make_mesh(config.mesh)
    localizer = build(config, len(classes))
    params = initial_params(config, localizer, mesh, params)
    trained = configs.trained_collections(config)
    tx = make_optimizer(config.optim, 1)
    state = jax.jit(lambda params: create(params, trained, localizer, tx, config.optim.ema_decay))(params)
    save_frozen(workdir, state.frozen)
    write_classes(workdir, classes)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, metrics)
    checkpoints.close()
    write_whole(workdir / "metrics.json", json.dumps({"step": 0, **metrics}, indent=2) + "\n")
