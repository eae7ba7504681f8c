"""Train, evaluate and predict from the command line.

python -m tadjax.main --config=configs/thumos_vitg.py --workdir=RUN                    # train, evaluating on the way
python -m tadjax.main --config=configs/thumos_vitg.py --workdir=RUN --mode=evaluate
python -m tadjax.main --workdir=RUN --mode=predict --video=FILE                        # any mp4, mkv, webm, avi
Any leaf of the config can be overridden: --config.optim.head_lr=2e-4
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from tadjax import config as configs
from tadjax.errors import ConfigError, TadjaxError

MODES = ("train", "evaluate", "predict")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/; predict reads the workdir's if not given."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, results.", required=True)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_VIDEO = flags.DEFINE_string("video", None, "predict: a video file.")


def run() -> None:
    """Does what the flags say. JAX is imported only once the config has been found right."""
    workdir = pathlib.Path(_WORKDIR.value)
    config = _CONFIG.value
    if config is None:
        if _MODE.value == "train":
            raise ConfigError("--config is missing: give a file of configs/, such as --config=configs/thumos_vitg.py")
        config = configs.load(workdir / "config.json")
    configs.check(config, configs.reference())
    if _MODE.value == "predict" and not _VIDEO.value:
        raise ConfigError("--mode=predict needs --video=FILE")

    import jax

    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "tadjax"))
    if _MODE.value == "train":
        from tadjax.train import train

        train(config, workdir)
    elif _MODE.value == "evaluate":
        from tadjax.evaluate import evaluate_run

        evaluate_run(config, workdir)
    else:
        from tadjax.predict import predict_file

        predict_file(config, workdir, pathlib.Path(_VIDEO.value))


def parse(argv: list[str]) -> list[str]:
    """Flags; a config that cannot be loaded, or an override of a field that is not there, is one sentence."""
    overridden = [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.lstrip("-").startswith("config.")]
    try:
        configs.check_names([name.removeprefix("config.") for name in overridden])
        rest = app.parse_flags_with_usage(argv)
        list(configs.fields(_CONFIG.value or {}))  # a file that failed to load says so only when it is read
        return rest
    except TadjaxError as error:
        text = str(error)
    except (AttributeError, OSError, SyntaxError, NameError, TypeError, ValueError) as error:
        text = "--config: " + " ".join(str(error).split()).rpartition("earlier failure to load: ")[2]
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(f"error: unexpected arguments {' '.join(argv[1:])}; flags look like --mode=evaluate", file=sys.stderr)
        return 2
    logging.set_verbosity(logging.WARNING)
    try:
        run()
    except TadjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
