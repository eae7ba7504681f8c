"""tadjax: temporal action localization in long videos.

tadjax train --config=thumos_vitg --workdir=RUN            trains and evaluates; goes on with a run that was stopped
tadjax evaluate --workdir=RUN                              mAP of a run
tadjax predict --workdir=RUN --video=FILE                  any video -> detections, subtitles, a picture, a page
tadjax extract --config=thumos_vitg --workdir=RUN          the backbone's features of every video
tadjax profile --config=thumos_vitg --workdir=RUN          memory and time of a step; --topology=v5e:1: on other chips
tadjax prepare NAME | custom                               checks a public data set, or makes one of your own videos
tadjax tfds NAME --output=DIR                              writes a prepared data set as a TFDS one
tadjax convert --input=FILE.pth --output=DIR               weights from PyTorch
tadjax export --input=RUN --output=FILE.pth                weights to PyTorch
tadjax metrics RESULTS ANNOTATIONS                         mAP, recall and diagnosis of anyone's results
tadjax report RESULTS --ground_truth=FILE --video=NAME     ground truth and proposals of one video, drawn
tadjax doctor --config=thumos_vitg                         whether this machine and a config are fit to train
tadjax demo                                                all of it on a small data set, in minutes on two CPU cores
tadjax real --video=FILE                                   which Kinetics actions a video shows, by real weights

tadjax COMMAND --help says more. `python -m tadjax COMMAND` is the same.
"""

import runpy
import sys

from tadjax.config.recipes import make_importable
from tadjax.errors import did_you_mean

COMMANDS = {
    **{mode: ("tadjax.main", f"--mode={mode}") for mode in ("train", "evaluate", "predict", "extract", "profile")},
    "prepare": ("tadjax.prepare",),
    "tfds": ("tadjax.prepare.builders",),
    "convert": ("convert.torch_to_flax",),
    "export": ("convert.flax_to_torch",),
    "metrics": ("tadjax.metrics",),
    "report": ("tadjax.report",),
    "doctor": ("tadjax.doctor",),
    "demo": ("tadjax.demo",),
    "real": ("tadjax.real",),
}


def main() -> int:
    """Runs the module of a command as the program, with the flags that follow; returns the exit status."""
    command, rest = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if command in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS) or f"there are {', '.join(COMMANDS)}"
        wrong = f"{command!r} is no command" if command else "a command is missing"
        print(f"error: {wrong}; {hint}. tadjax --help says what each does", file=sys.stderr)
        return 2
    module, *flags = COMMANDS[command]
    if module.startswith("convert."):
        make_importable("convert")
    sys.argv = [f"tadjax {command}", *flags, *rest]
    runpy.run_module(module, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
