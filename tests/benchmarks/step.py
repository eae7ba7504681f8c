"""A training step on the device at hand, against the published one in PyTorch."""

import importlib.util
import json
import pathlib
import tempfile

from tadjax.config import recipes
from tests.benchmarks import run

ROUNDS = 2
# On a CPU: the smallest backbone and a twelfth of the window, in float32.
SMALL = {"window.frames": 64, "window.feature_length": 64, "head.max_length": 64, "dtype": "float32"}
SIDE = {"adaptation.method": "side", "adaptation.layers": (6, 11), "backbone.drop_path": 0.0}
STORED = {"memory.taps": "store"}  # each layer's output, as PyTorch keeps it; else computed twice
GPU = {
    "AdaTAD, ViT-g, 768 x 160^2": ("thumos_vitg", {}),
    "AdaTAD-dagger, ViT-g, 1536 x 224^2": ("thumos_vitg_side_1536x224", {}),
    "the same, layers' outputs stored": ("thumos_vitg_side_1536x224", STORED),
}
CPU = {
    "AdaTAD, ViT-S, 64 x 160^2": ("thumos_vits", SMALL),
    "AdaTAD-dagger, ViT-S, 64 x 160^2": ("thumos_vits", {**SMALL, **SIDE}),
    "the same, layers' outputs stored": ("thumos_vits", {**SMALL, **SIDE, **STORED}),
}


def main() -> None:
    """One video a step, memory saved as each would; the better of two medians. LoSA has no public PyTorch code."""
    platform = run("-c", "import jax; print(jax.default_backend())").strip()
    peer = importlib.util.find_spec("torch") is not None
    if not peer:
        print("without torch only ours is timed")
    print(f"{'':36}{'seconds':>9}{'PyTorch':>9}{'ratio':>7}{'GiB':>9}{'PyTorch':>9}{'ratio':>7}{'utilisation':>13}")
    for name, (config, changes) in (CPU if platform == "cpu" else GPU).items():
        mine, theirs = [], []
        for _ in range(ROUNDS):  # in turn, so that what else the machine does hits both alike
            mine.append(ours(config, changes))
            theirs += [published(config, changes)] if peer else []
        best = min(mine, key=lambda numbers: numbers["step_seconds"])
        other = min(theirs, key=lambda numbers: numbers["seconds"], default={})
        memory = best.get("measured_peak_bytes_per_chip", 0) / 2**30 or None  # a CPU's is not known
        cells = shown(best["step_seconds"], other.get("seconds")) + shown(memory, other.get("peak_gib"))
        share = best.get("model_flops_utilisation")
        print(f"{name:36}{cells}{'' if share is None else f'{share:13.0%}'}", flush=True)


def shown(ours: float | None, theirs: float | None) -> str:
    """Ours, theirs, and how many times ours that is, as far as they are known."""
    ratio = theirs / ours if ours and theirs else None
    return "".join(
        f"{'-' if value is None else f'{value:.2f}':>{width}}" for value, width in ((ours, 9), (theirs, 9), (ratio, 7))
    )


def ours(config: str, changes: dict) -> dict:
    """The step that trains, measured by --mode=profile."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config.{name}={value}" for name, value in {"optim.batch_size": 1, **changes}.items()]
        run("-m", "tadjax.main", f"--config=configs/{config}.py", f"--workdir={folder}", "--mode=profile", *flags)
        return json.loads((pathlib.Path(folder) / "profile.json").read_text())


def published(config: str, changes: dict) -> dict:
    """The same shapes in PyTorch."""
    from tadjax.build import build

    made = recipes.shipped(config).get_config()
    made.update_from_flattened_dict(changes)
    localizer = build(made, 1, "cpu")
    settings = {name: getattr(localizer.backbone, name) for name in ("width", "depth", "heads", "patch", "mlp_width")}
    settings |= {"frames": made.window.frames, "size": made.window.size, "layers": localizer.layers}
    settings |= {"hidden": int(settings["width"] * made.adaptation.ratio), "side": made.adaptation.method == "side"}
    code = f"from tests.benchmarks.torch_step import report; report({settings!r})"
    return json.loads(run("-c", code, JAX_PLATFORMS="cpu").splitlines()[-1])
