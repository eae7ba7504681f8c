"""Train, evaluate, predict, extract and profile from the command line.

python -m tadjax.main --config=configs/thumos_vitg.py --workdir=RUN                    # train, evaluating on the way
python -m tadjax.main --config=configs/thumos_vitg.py --workdir=RUN --mode=evaluate
python -m tadjax.main --workdir=RUN --mode=predict --video=FILE                        # any mp4, mkv, webm, avi
python -m tadjax.main --config=configs/thumos_vitg.py --workdir=RUN --mode=extract     # the backbone's features
python -m tadjax.main --config=configs/thumos_vitg.py --workdir=RUN --mode=profile --topology=v5e:1   # does it fit?
Any leaf of the config can be overridden: --config.optim.head_lr=2e-4
The same command on several hosts is one job (launch/), also with --coordinator, --num_processes and --process_id.
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports, which take seconds

import pathlib
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from tadjax.config import checks as configs
from tadjax.config import command_line
from tadjax.errors import ConfigError

FIRST_STEPS = " and --config=configs/thumos_vitg.py. --help lists all flags; python -m tadjax.demo needs none"
MODES = ("train", "evaluate", "predict", "extract", "profile")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A recipe: a file of configs/ or its name; all modes but train read the workdir's if not given."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, results.")
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_VIDEO = flags.DEFINE_multi_string(
    "video",
    [],
    "predict, extract: a video file, a folder, or a pattern; may be repeated. extract: none for the config's.",
)
_MIN_SCORE = flags.DEFINE_float("min_score", 0.0, "predict: detections that score less are left out.")
_TOP_K = flags.DEFINE_integer("top_k", 100, "predict: how many detections of a video are kept; 0 for all.")
_LABELS = flags.DEFINE_list("labels", [], "predict: only detections with these labels; none for all.")
_OUTPUT = flags.DEFINE_string(
    "output", "", "predict, extract: where results go; WORKDIR/predictions or WORKDIR/features."
)
_TRUTH = flags.DEFINE_string("ground_truth", "", "predict: annotations to show beside the detections.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "profile: chips to compile for (v5e:1, a100:8); none: those here.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts: HOST:PORT where process 0 can be reached.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several hosts: how many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several hosts: the number of this process, from 0.")
_HEARTBEAT = flags.DEFINE_integer("heartbeat_timeout", 100, "Several hosts: seconds until a silent one counts as dead.")
_SIGTERM_STATUS = flags.DEFINE_integer("sigterm_status", 0, "train: exit status after SIGTERM; launch/ asks for 75.")
_PROFILE_STEPS = flags.DEFINE_list("profile_steps", [], "train: FIRST,LAST step to trace, into WORKDIR/profile.")


def run() -> int:
    """Does what the flags say; returns the exit status. JAX is imported only once the config has been found right."""
    if not _WORKDIR.value:
        raise ConfigError("--workdir is missing: give the run's folder, such as --workdir=runs/first" + FIRST_STEPS)
    workdir = pathlib.Path(_WORKDIR.value)
    config = _CONFIG.value
    if config is None:
        if _MODE.value == "train":
            raise ConfigError("--config is missing: give a recipe, such as --config=configs/thumos_vitg.py")
        config = configs.load(workdir / "config.json")
    configs.check(config)
    if _MODE.value == "predict" and not _VIDEO.value:
        raise ConfigError("--mode=predict needs --video=FILE (or a folder, or a pattern)")
    traced = profile_steps()

    from tadjax.parallel import hosts

    place = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    hosts.connect(*place, heartbeat_timeout=_HEARTBEAT.value, saves_on_sigterm=_MODE.value == "train")
    with hosts.together():
        staged = _MODE.value == "train" and len(config.lofi.stages) > 0
        if hosts.several() and (staged or _MODE.value not in ("train", "evaluate")):
            what = "config.lofi.stages" if staged else f"--mode={_MODE.value}"
            raise ConfigError(f"{what} is for a single process, but there are {hosts.count()}")
        status = run_mode(config, workdir, traced)
        if hosts.stopped_by_sigterm():
            return ending.INTERRUPTED if ending.asked() else _SIGTERM_STATUS.value
        return status


def profile_steps() -> tuple[int, int] | None:
    """--profile_steps as numbers; ConfigError if they are no range of steps."""
    if not _PROFILE_STEPS.value:
        return None
    numbers = [int(text) if text.isdecimal() else 0 for text in _PROFILE_STEPS.value]
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        given = ",".join(_PROFILE_STEPS.value)
        raise ConfigError(f"--profile_steps={given}: give the first and the last step, as in --profile_steps=10,15")
    return numbers[0], numbers[1]


def run_mode(config: Any, workdir: pathlib.Path, traced: tuple[int, int] | None) -> int:
    """Does what --mode says; returns the exit status. traced: steps of the training for the profiler."""
    from tadjax.workdir.run import keep_compiled

    keep_compiled()
    if _MODE.value == "train" and len(config.lofi.stages):
        from tadjax.training.stages import train_stages

        train_stages(config, workdir)
    elif _MODE.value == "train":
        from tadjax.training.loop import train

        train(config, workdir, profile_steps=traced)
    elif _MODE.value == "evaluate":
        from tadjax.inference.evaluate import evaluate_run

        evaluate_run(config, workdir)
    elif _MODE.value == "extract":
        from tadjax.inference.extract import extract_videos

        if extract_videos(config, workdir, _VIDEO.value, _OUTPUT.value):
            return 1
    elif _MODE.value == "profile":
        from tadjax.profiling.profile import profile

        profile(config, workdir, _TOPOLOGY.value)
    else:
        from tadjax.inference.predict import Filter, predict_files

        wanted = Filter(_MIN_SCORE.value, _TOP_K.value, tuple(_LABELS.value))
        options = {"wanted": wanted, "output": _OUTPUT.value, "ground_truth": _TRUTH.value}
        if predict_files(config, workdir, _VIDEO.value, **options):
            return 1
    return 0


def parse(argv: list[str]) -> list[str]:
    """Flags; what is wrong with them is one sentence."""
    try:
        return command_line.parse(argv, flags.FLAGS, _CONFIG)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(f"error: unexpected arguments {' '.join(argv[1:])}; flags look like --mode=evaluate", file=sys.stderr)
        return 2
    logging.set_verbosity(logging.FATAL)  # Orbax warns of what is meant to be so, and shows errors that we report
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: names of files may be no text
    ending.tell(saved)
    return ending.run(run, f"--workdir={_WORKDIR.value}")


def saved() -> str:
    """What a command that is stopped has saved, and how to go on."""
    if _MODE.value == "train":
        return ending.saved_in(_WORKDIR.value)
    if _MODE.value == "predict":
        return "the videos that were printed are done; the same command begins again, --video names the others"
    if _MODE.value == "extract":
        return "the features of the videos so far are there, and the same command goes on"
    return "nothing was written; the same command begins again"


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
