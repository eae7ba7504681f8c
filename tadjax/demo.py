"""python -m tadjax.demo: the whole way on a small data set, in minutes on two CPU cores.

Makes real mp4 files (data/demo.py) and a small pre-trained backbone (training/pretrain_demo.py), trains AdaTAD and,
on the same data and budget, a head alone on the frozen backbone; evaluates both; draws what AdaTAD found. With --lofi
it shows instead what training the encoder end to end at low fidelity brings (LoFi-E2E, tadjax/training/stages.py).
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports, which take seconds

import json
import pathlib
import shutil
import statistics
import sys
import time

from absl import app, flags, logging
from ml_collections import ConfigDict

from tadjax.backbones.vit import SIZES, Vit
from tadjax.config import checks as configs
from tadjax.config import recipes
from tadjax.data.annotations import load_annotations
from tadjax.files import write_whole
from tadjax.inference.evaluate import table
from tadjax.inference.predict import load
from tadjax.parallel import hosts
from tadjax.prepare.demo_videos import DemoPaths, make_demo
from tadjax.training.loop import train
from tadjax.training.pretrain_demo import draw_clips, pretrain
from tadjax.training.stages import train_stages
from tadjax.workdir import weights
from tadjax.workdir.checkpoint import METRIC
from tadjax.workdir.run import keep_compiled

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Where everything goes.")
_LOFI = flags.DEFINE_bool("lofi", False, "Compare the head's training after LoFi-E2E with the same without.")
PLAN = """\
Temporal action localization, from video files to a page of results. The data are drawn figures that do six things,
which differ in motion alone. AdaTAD trains small adapters inside a frozen backbone, and then a head alone, on the same
data and budget, shows what the adapters bring. On two CPU cores it takes about a quarter of an hour: the videos and the
backbone three minutes, AdaTAD eight, the head alone three. Everything goes to {workdir}; stopped, the same command goes
on where it was."""
DRAWN = 4  # validation videos
SEEDS = (0, 1, 2)  # of the comparison


def run(workdir: pathlib.Path) -> dict[str, float]:
    """Does it all; returns what metrics.json holds. A second call takes up where the first was stopped."""
    begin = time.monotonic()
    print(PLAN.format(workdir=workdir), file=sys.stderr)
    say("1 of 5: making the videos")
    data = make_demo(workdir / "data")
    say("2 of 5: pre-training the backbone")
    make_backbone(workdir / "weights")
    scores = {}
    for step, method, variant in ((3, "adatad", ""), (4, "head_only", "head_only")):
        say(f"{step} of 5: training {method}")
        scores[method] = train(config_of(variant, data, workdir), workdir / method)
        _end_if_stopped()
    say("5 of 5: drawing")
    draw(workdir / "adatad", data, workdir)
    metrics = {
        **scores["adatad"],
        f"head_only_{METRIC}": scores["head_only"][METRIC],
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_whole(workdir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    for method in scores:
        print(f"\n{method}\n{table(scores[method])}")
    print(f"\n{metrics['seconds']:.0f} s; pictures: {workdir}/timeline.png, {workdir}/predictions/")
    return metrics


def compare_lofi(workdir: pathlib.Path) -> dict[str, list[float]]:
    """Average mAP of the same last stage, same seeds, on features of the encoder after LoFi-E2E ("lofi") and as it was
    pre-trained ("acp"); written to WORKDIR/lofi/comparison.json."""
    data = make_demo(workdir / "data")
    say("pre-training the backbone")
    make_backbone(workdir / "weights")
    scores: dict[str, list[float]] = {"lofi": [], "acp": []}
    for method, of_method in scores.items():
        for seed in SEEDS:
            say(f"{method}, seed {seed}")
            config = config_of(method, data, workdir)
            config.seed = seed
            metrics = train_stages(config, workdir / "lofi" / f"{method}_{seed}")
            _end_if_stopped()
            of_method.append(metrics[METRIC])
    write_whole(workdir / "lofi" / "comparison.json", json.dumps(scores, indent=2) + "\n")
    for method, of_method in scores.items():
        spread = f"{statistics.mean(of_method):.1f} +- {statistics.stdev(of_method):.1f}"
        print(f"{method:5} average mAP {spread} ({', '.join(f'{score:.1f}' for score in of_method)})")
    return scores


def config_of(variant: str, data: DemoPaths, workdir: pathlib.Path) -> ConfigDict:
    """configs/demo.py, with the files where they are."""
    config = recipes.shipped("demo").get_config(variant)
    config.data.annotations = str(data.annotations)
    config.data.classes = str(data.classes)
    config.data.videos = str(data.videos)
    config.backbone.weights = str(workdir / "weights")
    configs.check(config)
    return config


def make_backbone(directory: pathlib.Path) -> None:
    """Pre-trains the demo's backbone and writes it as converted weights are, once."""
    if directory.exists():
        return
    config = recipes.shipped("demo").get_config()
    backbone = Vit(**SIZES[config.backbone.size], image=config.backbone.image)
    params, _ = pretrain(backbone, *draw_clips(seed=1, size=config.window.size))
    geometry = {"backbone": {**SIZES[config.backbone.size], "image": config.backbone.image}}
    weights.save(directory, {"backbone": params}, geometry, layout="tadjax demo")


def draw(run: pathlib.Path, data: DemoPaths, workdir: pathlib.Path) -> None:
    """Predicts some validation videos from their files, as a user would: pictures and pages, with the ground truth."""
    predictor = load(run)
    annotations = load_annotations(data.annotations, "validation", data.classes)
    for video in annotations.videos[:DRAWN]:
        found = predictor.predict(data.videos / f"{video.name}.mp4", min_score=0.2)
        folder = found.save(workdir / "predictions" / video.name, truth=video)
        print(f"{folder}/report.html", file=sys.stderr)
    shutil.copyfile(workdir / "predictions" / annotations.videos[0].name / "timeline.png", workdir / "timeline.png")


def _end_if_stopped() -> None:
    if hosts.stopped_by_sigterm():
        raise SystemExit(ending.INTERRUPTED if ending.asked() else 0)


def say(what: str) -> None:
    print(f"-- {what}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    if argv[1:]:
        print(f"error: unexpected arguments {' '.join(argv[1:])}", file=sys.stderr)
        return 2
    logging.set_verbosity(logging.FATAL)
    keep_compiled()
    ending.tell(lambda: "what is done stays, and the same command goes on from there")
    return ending.run(lambda: show(pathlib.Path(_WORKDIR.value).expanduser()), f"--workdir={_WORKDIR.value}")


def show(workdir: pathlib.Path) -> int:
    (compare_lofi if _LOFI.value else run)(workdir)
    return 0


if __name__ == "__main__":
    app.run(main)
