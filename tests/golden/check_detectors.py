"""Whole detectors on features: the state dict and the proposals of OpenTAD's own detector classes, from its configs.

What check_actionformer.py, check_tridet.py and check_gtad.py hold part by part is held here from end to end: the file
is recognised and converted as convert/torch_to_flax.py does it, then videos shorter and longer than the published
padding go through it. G-TAD's numbers are without the rounding to float16, as in check_gtad.py.
"""

import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from convert.files import Checkpoint, StoredTensor
from convert.mapping import nested, to_torch
from convert.torch_to_flax import Conversion, prepare, recognise
from tadjax.detections.decode import top_candidates
from tadjax.detections.nms import suppress
from tadjax.detections.settings import PostSettings
from tests.golden import check_actionformer, check_gtad, check_tridet
from tests.golden.check_tridet import close, detection_rows
from tests.golden.compare import Row

HEADS = {"ActionFormer": check_actionformer, "TriDet": check_tridet, "GTAD": check_gtad}
# One feature step is a second.
META = {"fps": 1.0, "duration": 1e6, "snippet_stride": 1, "window_start_frame": 0, "offset_frames": 0}


def matches(name: str, keys: set[str]) -> bool:
    return "config" in keys and any(key.startswith("sd/module.") for key in keys)


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(arrays["config"]))
    tensors = {key.removeprefix("sd/"): array for key, array in arrays.items() if key.startswith("sd/")}
    stored = {key: StoredTensor(a.shape, a.dtype, path, array=a) for key, a in tensors.items()}
    conversion = prepare(recognise(Checkpoint((path,), {"state_dict": stored})))  # raises for unknown or missing ones
    yield Row("tensors mapped", len(conversion.report.mapped), len(tensors))
    params = _params(conversion)
    back = to_torch(params, conversion.source.layout.rules)
    yield Row("names of one side only", len({f"module.{name}" for name in back} ^ set(tensors)), 0)
    for name, tensor in back.items():
        yield Row(f"{name}, back", tensor, tensors[f"module.{name}"])
    head = HEADS[config["model"]["type"]].head_from_config(config["model"])
    run = jax.jit(head.candidates)
    for length in sorted(int(key.removeprefix("in/x_")) for key in arrays if key.startswith("in/x_")):
        features, valid = arrays[f"in/x_{length}"].transpose(0, 2, 1), arrays[f"in/mask_{length}"]
        with jax.default_matmul_precision("highest"):
            found = {name: np.asarray(value) for name, value in run(params["head"], features, valid).items()}
        for b in range(len(valid)):
            of = {name: value[b] for name, value in found.items()}
            case = f"{length}_{b}"
            yield from _proposals(case, of, arrays[f"out/segments_{case}"], arrays[f"out/scores_{case}"])
            name = f"out/final_{case}"
            yield from detection_rows(name, _detections(of, config["nms"]), arrays[name], META)


def _params(conversion: Conversion) -> dict:
    tensors = conversion.source.tensors
    return nested({p.path: p.assemble(tensors, lambda name: tensors[name].read()) for p in conversion.parameters})


def _proposals(case: str, found: dict, segments: np.ndarray, scores: np.ndarray) -> Iterator[Row]:
    """The reference leaves out padded points (ActionFormer), keeps them without a score (TriDet), or reports segments
    between likely boundaries (G-TAD)."""
    valid = found["valid"]
    if segments.ndim == 3:  # TriDet's [K, P, 2]
        segments = segments.transpose(1, 0, 2)[valid]
        yield Row(f"out/scores_{case} of padded points", scores[~valid], np.zeros_like(scores[~valid]))
        scores = scores[valid]
    yield close(f"out/segments_{case}", found["segments"][valid], segments)
    yield close(f"out/scores_{case}", found["scores"][valid], scores.reshape(len(scores), -1))


def _detections(found: dict, nms: dict) -> tuple:
    settings = {key: value for key, value in nms.items() if key not in ("use_soft_nms", "iou_threshold")}
    settings = PostSettings(**settings)
    kept = top_candidates(found["segments"], found["scores"], found["valid"], settings)
    return suppress(kept.segments, kept.scores, kept.labels, settings)
