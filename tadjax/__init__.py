"""End-to-end temporal action localization with billion-parameter video backbones, in JAX."""

import os
from typing import TYPE_CHECKING

from tadjax import devices

if TYPE_CHECKING:
    from tadjax.inference.predict import Predictor

devices.leave_out_absent()  # before anything imports JAX


def load(workdir: str | os.PathLike[str]) -> "Predictor":
    """The best checkpoint of a run: `tadjax.load("RUN").predict("x.mp4")`; see tadjax/inference/predict.py."""
    from tadjax.inference.predict import (
        load as load_predictor,  # JAX is imported by who needs it, and not with the package
    )

    return load_predictor(workdir)
