"""What all tests share: JAX on the CPU, programs kept between processes; a small data set of real files.

Tests run under the compiler's usual settings, as users' programs do. Most tests are of plumbing, whose programs take
longer to compile than to run: `pytest --quick` compiles them in a third of the time, and leaves out those of numbers,
which another compilation would round otherwise. `make test` runs the tests of numbers, then all others with --quick.
"""

import importlib.metadata
import json
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Files and folders whose tests compare numbers that depend on how the compiler rounds.
NUMBERS = (
    "adaptation",
    "backbones",
    "convert",
    "data/test_augment.py",
    "data/test_image_ops.py",
    "heads",
    "training/test_golden.py",
    "training/test_optimizer.py",
    "training/test_state.py",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def quick_flags(jaxlib: str) -> list[str]:
    """XLA_FLAGS that leave out optimizations, of those that this version knows: it aborts at any other."""
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # every worker of the tests keeps a core busy by itself
    ]
    if jaxlib.startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return flags


def pytest_addoption(parser) -> None:
    parser.addoption("--quick", action="store_true", help="compile quickly, and leave out the tests of numbers")


def pytest_configure(config) -> None:
    """Before anything compiles: the flags are read once a process. Programs that tests start inherit them."""
    if config.option.quick:
        os.environ.setdefault("XLA_FLAGS", " ".join(quick_flags(importlib.metadata.version("jaxlib"))))


def pytest_collection_modifyitems(config, items) -> None:
    kept, left_out = [], []
    for item in items:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        numbers = path.startswith(NUMBERS)
        if numbers:
            item.add_marker("numbers")
        (left_out if numbers and config.option.quick else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


import numpy as np  # noqa: E402

CLASSES = ("left", "right", "still")
FPS = 10


def write_moving_square(path: pathlib.Path, frames: int, motion: list[int], size: tuple[int, int] = (48, 40)) -> None:
    """A bright square on grey that moves by motion[i] pixels after frame i."""
    import av

    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "g": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        x = width // 2
        for i in range(frames):
            picture = np.full((height, width, 3), 90, np.uint8)
            picture[12:24, np.arange(x, x + 10) % width] = 230
            x += motion[i]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def make_small_data(root: pathlib.Path) -> pathlib.Path:
    """A folder with annotations.json, classes.txt and videos/: five training and two validation videos of 8 to 13 s."""
    (root / "videos").mkdir()
    rng = np.random.default_rng(0)
    database = {}
    for index in range(7):
        frames = 80 + 9 * index
        motion, annotations, end = [0] * frames, [], 0
        while end + 30 < frames:
            start = end + int(rng.integers(3, 8))
            end = start + int(rng.integers(12, 22))
            label = int(rng.integers(0, 2))
            motion[start:end] = [(-2, 2)[label]] * (end - start)
            annotations.append({"segment": [start / FPS, end / FPS], "label": CLASSES[label]})
        name = f"video{index}"
        write_moving_square(root / "videos" / f"{name}.mp4", frames, motion)
        database[name] = {
            "subset": "training" if index < 5 else "validation",
            "duration": frames / FPS,
            "frame": frames,
            "annotations": annotations,
        }
    (root / "annotations.json").write_text(json.dumps({"database": database}))
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> pathlib.Path:
    return make_small_data(tmp_path_factory.mktemp("small_data"))


def make_small_config(small_data: pathlib.Path):
    """The flagship's tiny twin on the small data set: 3 steps an epoch, 4 epochs."""
    from configs import thumos_vitg

    config = thumos_vitg.get_config("tiny")
    config.data.annotations = str(small_data / "annotations.json")
    config.data.classes = str(small_data / "classes.txt")
    config.data.videos = str(small_data / "videos")
    config.window.stride = 2
    config.optim.epochs = 4
    config.train.eval_from_epoch, config.train.eval_every_epochs = 2, 2
    config.train.checkpoint_every, config.train.log_every = 2, 1
    return config


@pytest.fixture
def small_config(small_data):
    return make_small_config(small_data)


NO_TORCH = "PyTorch is not installed (tests/requirements.txt)"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A file of tests that imports PyTorch, for the converters or as a reference, is skipped where there is none."""
    report = yield
    if report.failed and "No module named 'torch'" in report.longreprtext:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 1, NO_TORCH)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that imports PyTorch by itself likewise."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        pytest.skip(NO_TORCH)
