"""The PyTorch that is measured against computes what the public implementation computed."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.benchmarks.torch_step import Vit
from tests.conftest import ROOT

PREFIX = "model.backbone."
UNUSED = ("pos_embed", "fc_norm.")  # made anew; without effect on features


@pytest.mark.parametrize("name", ["vit_adapter", "vit_ladder"])
@pytest.mark.parametrize("recompute", [False, True])
def test_features_and_gradients_are_the_published_ones(name, recompute):
    with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files if key != "config"}
        config = json.loads(str(file["config"]))
    vit = config["backbone"]
    weights = {key.removeprefix("sd/" + PREFIX): golden[key] for key in golden if key.startswith("sd/" + PREFIX)}
    side = "ladders.adapters.0.gamma" in weights
    adapters = "ladders.adapters.0" if side else f"blocks.{vit['adapter_index'][0]}.adapter"
    model = Vit(
        width=vit["embed_dims"],
        depth=vit["depth"],
        heads=vit["num_heads"],
        patch=vit["patch_size"],
        mlp_width=vit["mlp_ratio"] * vit["embed_dims"],
        frames=config["frames"],
        size=config["width"],
        layers=vit["adapter_index"],
        hidden=len(weights[f"{adapters}.down_proj.bias"]),
        side=side,
        image=vit["img_size"],
        recompute=recompute,
    )
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith(UNUSED)})
    found = model(golden["in/frames"][:, 0])
    found = F.interpolate(found, size=config["window_size"], mode="linear", align_corners=False)
    torch.testing.assert_close(found, golden["out/features"], rtol=0, atol=1e-5)
    (found * golden["in/cotangent"]).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert gradients
    for key, gradient in gradients.items():
        expected = golden[f"grad/{PREFIX}{key}"]
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-5 * float(expected.abs().max()) + 1e-7)
