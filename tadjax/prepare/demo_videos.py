"""The demo data set: short real videos (H.264 mp4) whose actions differ in motion alone.

Every video shows one actor, a two-coloured shape, in front of a moving texture, among smaller distractors that drift
and bounce. The actor's state is a point on a torus, four angles (in turns) which say where it stands, how large it is
and which way it points. The point starts uniformly distributed and an action pushes it along the torus at constant
speed in a direction of its class (`ACTIONS`). A push at constant speed keeps a uniform distribution uniform: so at
every moment, in every class and between the actions, the actor stands anywhere, at any size and angle, with the same
probability, in a look that is drawn once a video. A single frame therefore tells neither the class nor whether
anything happens at all; and no action starts or ends with a jump. A mirrored video keeps its labels.

    python -m tadjax.prepare.demo_videos --root=data/demo
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tadjax.errors import DataError
from tadjax.flags import Parser

# How an action moves the actor's angles (across, down, size, direction), in turns a period. Where it stands, across and
# down, are cosines of their angles; size is a sawtooth, so that growing differs from shrinking played backwards.
ACTIONS = {
    "bob": (0, 1, 0, 0),
    "grow": (0, 0, 1, 0),
    "loop": (1, 1, 0, 0),
    "shrink": (0, 0, -1, 0),
    "spin": (0, 0, 0, 1),
    "sway": (1, 0, 0, 0),
}
EITHER_WAY = np.array([True, True, False, True])  # angles that an action may turn in either direction

PERIOD = (0.9, 1.5)  # seconds for one turn
WANDER = (0.08, 0.08, 0.0, 0.06)  # amplitude in turns of the slow motion that never stops, in actions and between them
WANDER_PERIOD = (6.0, 12.0)  # seconds
REACH = 0.26  # how far the actor's centre goes from the middle of the picture, by its short side
ACTOR_SIZE = (0.24, 0.44)  # diameter by the short side, from the smallest to the largest
ACTION_SECONDS = (0.5, 10.0)  # shortest and longest action; their logarithm has a triangular distribution around
USUAL_ACTION_SECONDS = 3.0
PAUSE_SECONDS = (0.8, 4.0)  # between actions, and before the first one
DISTRACTORS = (2, 4)
DISTRACTOR_SIZE = (0.08, 0.16)  # diameter by the short side
DISTRACTOR_SPEED = (0.1, 0.3)  # short sides a second
AIMLESS_SPEED = 0.8  # turns a second of the pre-training clips' actors, at most
AIMLESS_RATE = (8.0, 20.0)  # frames a second of these clips
TEXTURE = 256  # side of the background's periodic texture, pixels
TEXTURE_SPEED = (0.05, 0.2)  # short sides a second
TEXTURE_ZOOM = 0.2  # the background grows and shrinks by up to this share
FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60))
SIZES = ((128, 96), (192, 144), (160, 120), (96, 128), (176, 144), (192, 108), (144, 144), (108, 144))  # width, height
SHAPES = ("wedge", "half", "bar", "tee", "dart")


@dataclass(frozen=True)
class DemoSpec:
    """How much of the demo data set to make."""

    training: int = 48
    validation: int = 12
    seconds: tuple[float, float] = (20.0, 60.0)  # of a video; the short ones are the more frequent


@dataclass(frozen=True)
class DemoPaths:
    """Where the parts of a demo data set lie."""

    root: Path

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    @property
    def annotations(self) -> Path:
        return self.root / "annotations.json"

    @property
    def classes(self) -> Path:
        return self.root / "classes.txt"

    @property
    def stamp(self) -> Path:
        return self.root / "stamp.json"


@dataclass(frozen=True)
class Action:
    start: float  # seconds
    end: float  # seconds
    label: str
    velocity: np.ndarray  # [4] turns a second


@dataclass(frozen=True)
class Distractor:
    start: np.ndarray  # [2] (x, y), short sides
    velocity: np.ndarray  # [2] short sides a second
    diameter: float  # short sides
    color: np.ndarray  # [3]
    round: bool


@dataclass(frozen=True)
class Scene:
    """All that is drawn by chance for one video; `render` makes its frame at any time."""

    fps: Fraction
    frames: int
    width: int
    height: int
    actions: tuple[Action, ...]
    start: np.ndarray  # [4] turns: the actor's state at time 0, uniform
    wander: np.ndarray  # [4, 3]: amplitude (turns), frequency (1/s), phase (turns)
    shape: str
    colors: np.ndarray  # [2, 3] of the actor's two halves
    distractors: tuple[Distractor, ...]
    texture: np.ndarray  # [TEXTURE, TEXTURE] in 0..1
    texture_colors: np.ndarray  # [2, 3] where the texture is 0 and 1
    texture_velocity: np.ndarray  # [2] short sides a second
    texture_zoom: tuple[float, float]  # period (seconds) and phase (turns)

    @property
    def duration(self) -> float:
        return float(self.frames / self.fps)


# --- what is drawn by chance -----------------------------------------------------------------------------------------


def draw_scene(seed: int, index: int, seconds: tuple[float, float] = DemoSpec.seconds) -> Scene:
    """The scene of video number `index`: a pure function of its arguments."""
    rng = np.random.default_rng((seed, index))
    fps = FRAME_RATES[index % len(FRAME_RATES)]
    width, height = SIZES[index % len(SIZES)]
    shortest, longest = seconds
    frames = round((shortest + (longest - shortest) * rng.beta(1.0, 2.5)) * fps)
    frames = min(max(frames, int(np.ceil(shortest * fps))), int(longest * fps))
    texture_colors = _hsv(
        rng.uniform(0, 1, 2), rng.uniform(0.2, 0.5, 2), [rng.uniform(0.15, 0.35), rng.uniform(0.45, 0.7)]
    )
    hue = rng.uniform()
    return Scene(
        fps=fps,
        frames=frames,
        width=width,
        height=height,
        actions=_draw_actions(rng, float(frames / fps)),
        start=rng.uniform(0, 1, 4),
        wander=np.stack([np.array(WANDER), 1 / rng.uniform(*WANDER_PERIOD, 4), rng.uniform(0, 1, 4)], axis=1),
        shape=str(rng.choice(SHAPES)),
        colors=_hsv(
            np.array([hue, hue + rng.uniform(0.25, 0.75)]), rng.uniform(0.6, 1.0, 2), [1.0, rng.uniform(0.7, 1.0)]
        ),
        distractors=tuple(
            _draw_distractor(rng, width, height) for _ in range(rng.integers(*DISTRACTORS, endpoint=True))
        ),
        texture=_draw_texture(rng),
        texture_colors=texture_colors,
        texture_velocity=_draw_velocity(rng, *TEXTURE_SPEED),
        texture_zoom=(rng.uniform(5.0, 12.0), rng.uniform()),
    )


def _draw_actions(rng: np.random.Generator, duration: float) -> tuple[Action, ...]:
    """Actions and pauses in turn until the video ends. Labels are dealt from a shuffled deck, so that none is rare."""
    actions, deck = [], []
    duration = math.floor(duration * 1000) / 1000  # annotations have milliseconds, and none may end after the video
    low, high = np.log(ACTION_SECONDS)
    start = round(rng.uniform(*PAUSE_SECONDS), 3)
    while duration - start > ACTION_SECONDS[0]:
        seconds = math.exp(rng.triangular(low, np.log(USUAL_ACTION_SECONDS), high))
        end = round(min(start + seconds, duration), 3)
        deck = deck or list(rng.permutation(list(ACTIONS)))
        label = str(deck.pop())
        way = np.where(EITHER_WAY, rng.choice([-1, 1], 4), 1)
        velocity = way * np.array(ACTIONS[label]) / rng.uniform(*PERIOD)
        actions.append(Action(start, end, label, velocity))
        start = round(end + rng.uniform(*PAUSE_SECONDS), 3)
    return tuple(actions)


def _draw_distractor(rng: np.random.Generator, width: int, height: int) -> Distractor:
    short = min(width, height)
    return Distractor(
        start=rng.uniform(0, 1, 2) * (width / short, height / short),
        velocity=_draw_velocity(rng, *DISTRACTOR_SPEED),
        diameter=rng.uniform(*DISTRACTOR_SIZE),
        color=_hsv(rng.uniform(0, 1, 1), [rng.uniform(0.6, 1.0)], [rng.uniform(0.7, 1.0)])[0],
        round=bool(rng.integers(2)),
    )


def _draw_velocity(rng: np.random.Generator, slowest: float, fastest: float) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(slowest, fastest) * np.array([np.cos(angle), np.sin(angle)])


def _draw_texture(rng: np.random.Generator) -> np.ndarray:
    """Periodic noise with a spectrum that falls off like that of natural pictures. [TEXTURE, TEXTURE] in 0..1"""
    frequency = np.hypot(np.fft.fftfreq(TEXTURE)[:, None], np.fft.rfftfreq(TEXTURE)) * TEXTURE
    spectrum = np.fft.rfft2(rng.standard_normal((TEXTURE, TEXTURE))) / np.maximum(frequency, 2.0) ** 1.3
    noise = np.fft.irfft2(spectrum)
    low, high = np.quantile(noise, [0.02, 0.98])
    return np.clip((noise - low) / (high - low), 0, 1).astype(np.float32)


def _hsv(hue, saturation, value) -> np.ndarray:
    """Colours [n, 3] in 0..255 of hues (turns), saturations and values."""
    hue, saturation, value = (np.asarray(x, np.float32)[:, None] for x in (hue, saturation, value))
    k = (np.array([5.0, 3.0, 1.0], np.float32) + hue * 6) % 6
    return 255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def draw_aimless_clip(seed: int, index: int, size: int, frames: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A short clip to pre-train a backbone on, in which the actor does nothing that is an action.

    It moves along the torus in a direction drawn by chance, all four angles at once, each at its own speed. Looks,
    backgrounds and distractors are as in the data set (of other seeds). The clip number `index` of a seed is a pure
    function of the arguments.

    Returns the frames, uint8 [frames, size, size, 3], and how much of each pixel the actor covers, uint8
    [frames, size, size].
    """
    # Scenes of the data set are drawn from (seed, index): the third number keeps these apart from all of them.
    rng = np.random.default_rng((seed, index, 1))
    scene = draw_scene(int(rng.integers(2**31, 2**32)), 0)
    rate = rng.uniform(*AIMLESS_RATE)
    aimless = Action(0.0, frames / rate, "", rng.uniform(-AIMLESS_SPEED, AIMLESS_SPEED, 4))
    scene = dataclasses.replace(scene, width=size, height=size, actions=(aimless,))
    times = np.arange(frames) / rate
    return np.stack([render(scene, t) for t in times]), np.stack([render_mask(scene, t) for t in times])


# --- what is seen ----------------------------------------------------------------------------------------------------


def actor_state(scene: Scene, seconds: float) -> np.ndarray:
    """The actor's four angles at a time, in turns: where it stands across and down, its size, its direction. [4]"""
    amplitude, frequency, phase = scene.wander.T
    state = scene.start + amplitude * np.sin(2 * np.pi * (frequency * seconds + phase))
    for action in scene.actions:
        state = state + action.velocity * (np.clip(seconds, action.start, action.end) - action.start)
    return state % 1.0


def render(scene: Scene, seconds: float) -> np.ndarray:
    """The picture at a time. uint8 [height, width, 3]"""
    short = min(scene.width, scene.height)
    picture = _background(scene, seconds)
    edges = np.array([scene.width, scene.height]) / short
    for distractor in scene.distractors:
        # Bouncing off the edges is moving straight on in a mirrored picture.
        x, y = edges - np.abs((distractor.start + distractor.velocity * seconds) % (2 * edges) - edges)
        shape = "disc" if distractor.round else "square"
        _draw(picture, shape, x * short, y * short, distractor.diameter * short, 0.0, distractor.color[None])
    _draw_actor(picture, scene, seconds, scene.colors)
    return (picture + 0.5).astype(np.uint8)


def render_mask(scene: Scene, seconds: float) -> np.ndarray:
    """How much of each pixel the actor covers at a time. uint8 [height, width], 255 = all of it"""
    mask = np.zeros((scene.height, scene.width, 1), np.float32)
    _draw_actor(mask, scene, seconds, np.full((1, 1), 255.0))
    return (mask[:, :, 0] + 0.5).astype(np.uint8)


def _draw_actor(picture: np.ndarray, scene: Scene, seconds: float, colors: np.ndarray) -> None:
    across, down, size, direction = actor_state(scene, seconds)
    short = min(scene.width, scene.height)
    smallest, largest = ACTOR_SIZE
    diameter = smallest * (largest / smallest) ** size * short
    x = scene.width / 2 + REACH * short * np.cos(2 * np.pi * across)
    y = scene.height / 2 + REACH * short * np.cos(2 * np.pi * down)
    _draw(picture, scene.shape, x, y, diameter, direction, colors)


def _background(scene: Scene, seconds: float) -> np.ndarray:
    """The texture, moved and zoomed. Both act along the axes, so rows and columns are interpolated one after the other.

    Returns float32 [height, width, 3]."""
    short = min(scene.width, scene.height)
    period, phase = scene.texture_zoom
    zoom = 1 + TEXTURE_ZOOM * np.sin(2 * np.pi * (seconds / period + phase))
    moved = scene.texture_velocity * seconds * short
    noise = scene.texture
    for axis, (length, shift) in enumerate([(scene.height, moved[1]), (scene.width, moved[0])]):
        at = (np.arange(length) - length / 2) / zoom + shift
        below = np.floor(at).astype(int)
        share = (at - below).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        noise = noise.take(below % TEXTURE, axis) * (1 - share) + noise.take((below + 1) % TEXTURE, axis) * share
    dark, bright = scene.texture_colors
    return dark + noise[:, :, None] * (bright - dark)


def _draw(picture: np.ndarray, shape: str, x: float, y: float, diameter: float, turns: float, colors: np.ndarray):
    """Draws a shape onto `picture` in place, with soft edges; its halves have `colors` (one or two)."""
    height, width, _ = picture.shape
    radius = diameter / 2
    left, right = max(int(x - radius) - 1, 0), min(int(x + radius) + 3, width)
    top, bottom = max(int(y - radius) - 1, 0), min(int(y + radius) + 3, height)
    if left >= right or top >= bottom:
        return
    dx, dy = np.arange(left, right) + 0.5 - x, (np.arange(top, bottom) + 0.5 - y)[:, None]
    cos, sin = np.cos(2 * np.pi * turns) / radius, np.sin(2 * np.pi * turns) / radius
    along, aside = dx * cos + dy * sin, dy * cos - dx * sin  # the shape's own axes; it lies within -1..1
    cover = np.clip(_inside(shape, along, aside) * radius + 0.5, 0, 1)[:, :, None]
    color = colors[0]
    if len(colors) == 2:
        color = color + np.clip(along * radius + 0.5, 0, 1)[:, :, None] * (colors[1] - color)
    patch = picture[top:bottom, left:right]
    patch += cover * (color - patch)


def _inside(shape: str, along: np.ndarray, aside: np.ndarray) -> np.ndarray:
    """Roughly the distance to the edge of a shape, positive inside, for coordinates in radii."""
    wide, disc = np.abs(aside), 1 - np.hypot(along, aside)
    if shape == "disc":
        return disc
    if shape == "square":
        return 0.85 - np.maximum(np.abs(along), wide)
    if shape == "wedge":  # a disc with a mouth
        return np.minimum(disc, np.maximum(wide * 0.7 - along * 0.7, -along))
    if shape == "half":
        return np.minimum(disc, along + 0.3)
    if shape == "bar":
        return np.minimum(0.95 - np.abs(along), 0.4 - wide)
    if shape == "tee":
        stem = np.minimum(0.95 - np.abs(along), 0.25 - wide)
        top = np.minimum(np.minimum(along - 0.4, 0.95 - along), 0.85 - wide)
        return np.maximum(stem, top)
    if shape == "dart":
        return np.minimum((0.95 - along) * 0.4 - wide * 0.9, along + 0.95 - 0.5 * (0.9 - wide))
    raise ValueError(f"shape {shape!r} is none of disc, square, {', '.join(SHAPES)}")


# --- files -----------------------------------------------------------------------------------------------------------


def make_demo(root: str | Path, seed: int = 0, spec: DemoSpec = DemoSpec(), workers: int | None = None) -> DemoPaths:
    """Makes the demo data set under `root`, or finds it there.

    The files are a pure function of `seed`, `spec` and this module's source; a stamp remembers these, and a data set
    with another stamp is made anew. It is written beside `root` and renamed when complete, so `root` never holds half
    of one. `workers`: processes; None takes one a core.

    Raises:
      DataError: `root` holds something that is not a demo data set (nothing is touched).
    """
    root = Path(root)
    stamp = {"seed": seed, **dataclasses.asdict(spec), "source": _source_digest()}
    if _read_stamp(root) == json.dumps(stamp, indent=2):
        return DemoPaths(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with ending.temporary_folder(f".{root.name}-", root.parent) as beside:
        _write_demo(DemoPaths(beside), seed, spec, workers or _cores())
        DemoPaths(beside).stamp.write_text(json.dumps(stamp, indent=2))
        beside.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        if root.exists():
            _read_stamp(root)
            shutil.rmtree(root)
        beside.rename(root)
    return DemoPaths(root)


def _source_digest() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def _read_stamp(root: Path) -> str | None:
    """The stamp of the data set at `root`, None if nothing is there; an error if it is something else."""
    if not root.exists():
        return None
    stamp = DemoPaths(root).stamp
    if stamp.is_file():
        return stamp.read_text()
    if root.is_dir() and not any(root.iterdir()):
        return None
    raise DataError(
        f"{root} exists and is no demo data set (it has no {stamp.name}): name another folder, or remove it"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_demo(paths: DemoPaths, seed: int, spec: DemoSpec, workers: int) -> None:
    paths.videos.mkdir()
    subsets = ["training"] * spec.training + ["validation"] * spec.validation
    names = [f"{subset}_{index:03d}" for index, subset in enumerate(subsets)]
    jobs = [(seed, index, spec.seconds, paths.videos / f"{name}.mp4") for index, name in enumerate(names)]
    if workers > 1:
        # Spawned, not forked: the caller may hold threads (JAX does), and a fork would copy their locks.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            with ending.shield():
                made = pool.map(_make_video, jobs)
            scenes = list(made)
    else:
        scenes = [_make_video(job) for job in jobs]
    database = {
        name: {
            "subset": subset,
            "duration": round(scene["duration"], 4),
            "frame": scene["frames"],
            "annotations": scene["annotations"],
        }
        for name, subset, scene in zip(names, subsets, scenes, strict=True)
    }
    paths.annotations.write_text(json.dumps({"version": "tadjax demo", "database": database}, indent=1) + "\n")
    paths.classes.write_text("\n".join(ACTIONS) + "\n")


def _make_video(job: tuple[int, int, tuple[float, float], Path]) -> dict:
    """Draws one video and writes it; returns what the annotations say about it."""
    seed, index, seconds, path = job
    scene = draw_scene(seed, index, seconds)
    write_video(path, (render(scene, float(i / scene.fps)) for i in range(scene.frames)), scene.fps)
    annotations = [{"segment": [action.start, action.end], "label": action.label} for action in scene.actions]
    return {"duration": scene.duration, "frames": scene.frames, "annotations": annotations}


def write_video(path: str | Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    """Encodes frames (uint8 [height, width, 3], even sizes) as H.264 in mp4. The same frames give the same bytes."""
    # With several threads, or its code for this very processor, libx264 does not repeat itself exactly.
    options = {"preset": "veryfast", "crf": "20", "g": str(round(2 * fps)), "threads": "1"}
    options["x264-params"] = "cpu-independent=1"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            if index == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> int:
    parser = Parser(
        "tadjax.prepare.demo_videos",
        description="Makes the demo data set: short videos whose actions differ in motion.",
    )
    parser.add_argument("--root", required=True, help="folder to make it in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--training", type=int, default=DemoSpec.training, help="number of training videos")
    parser.add_argument("--validation", type=int, default=DemoSpec.validation, help="number of validation videos")
    flags = parser.parse_args()

    def make() -> int:
        paths = make_demo(os.path.expanduser(flags.root), flags.seed, DemoSpec(flags.training, flags.validation))
        print(f"{flags.training} training and {flags.validation} validation videos are in {paths.root}")
        return 0

    return ending.run(make, flags.root)


if __name__ == "__main__":
    sys.exit(main())
