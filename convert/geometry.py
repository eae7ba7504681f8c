"""Widths, depths and counts of a model, read off the shapes of its parameters."""

import math
import re
from collections.abc import Mapping
from typing import Any

from tadjax.backbones import BACKBONES
from tadjax.backbones.i3d import I3d
from tadjax.backbones.vit import CLIP_STEPS

INTERNVIDEO2_PLACES = 16 * 16  # of a frame, in the table of positions of all published files

Shapes = Mapping[str, tuple[int, ...]]


def geometry(shapes: Shapes, adapter: str, adapted: list[int], positions: int | None = None) -> dict[str, Any]:
    """What the shapes say, by collection; a collection that is absent is left out.

    adapter: the layout's method; adapted: the adapted layers, where the names tell; positions: rows of the source's
    position table, where it has one.
    """
    found = {}
    if {"backbone/patch_embed/kernel", "backbone/blocks/mlp/fc1/kernel"} <= shapes.keys():  # a ViT or its kin
        found["backbone"] = _backbone(shapes, positions)
    elif "backbone/spatial_blocks/mlp/fc1/kernel" in shapes:
        found["backbone"] = _videoprism(shapes)
    elif name := next((name for path, name in _MARKS.items() if path in shapes), None):
        found["backbone"] = dict(name=name, depths=_depths(shapes, name))
    if "adapter/down/kernel" in shapes:
        found["adapter"] = _adapter(shapes, adapter, adapted)
    if "head/classification/out/kernel" in shapes:
        found["head"] = _anchor_free(shapes)
    elif {"head/projection/kernel", "head/map_out/kernel"} <= shapes.keys():
        found["head"] = _gtad(shapes)
    return found


def _backbone(shapes: Shapes, positions: int | None) -> dict[str, Any]:
    tubelet, patch, _, _, width = shapes["backbone/patch_embed/kernel"]
    depth, _, mlp_width = shapes["backbone/blocks/mlp/fc1/kernel"]
    name = next((name for path, name in _KIN.items() if path in shapes), "vit")
    found = dict(name=name, width=width, depth=depth, patch=patch, tubelet=tubelet, mlp_width=mlp_width)
    # The number of heads leaves no trace in any shape: it is that of the published size, else the config's.
    own = dict(found, blocks=depth)
    told = {"width", "depth", "blocks", "patch", "mlp_width"}
    sizes = [(key, size) for key, size in BACKBONES[name][1].items() if all(own[k] == size[k] for k in told & {*size})]
    found["size"], found["heads"] = (sizes[0][0], sizes[0][1]["heads"]) if sizes else (None, None)
    found["mlp_ratio"] = round(mlp_width / width, 4)
    if name == "internvideo2" and (shapes["backbone/positions"][0] - 1) % INTERNVIDEO2_PLACES == 0:
        found["position_frames"] = (shapes["backbone/positions"][0] - 1) // INTERNVIDEO2_PLACES
    if positions is not None:
        found["image"] = math.isqrt(positions // CLIP_STEPS) * patch
    return found


def _videoprism(shapes: Shapes) -> dict[str, Any]:
    _, patch, _, _, width = shapes["backbone/patch_embed/kernel"]
    (spatial, _, mlp_width), temporal = shapes["backbone/spatial_blocks/mlp/fc1/kernel"], "temporal_blocks/norm1/scale"
    found = dict(name="videoprism", width=width, spatial=spatial, temporal=shapes[f"backbone/{temporal}"][0])
    found |= dict(patch=patch, mlp_width=mlp_width, table_frames=shapes["backbone/temporal_positions"][0])
    sizes = BACKBONES["videoprism"][1].items()
    found["size"] = next((key for key, size in sizes if all(found[k] == size[k] for k in found if k != "name")), None)
    found["image"] = math.isqrt(shapes["backbone/spatial_positions"][0]) * patch
    return found


# What tells ViT's kin apart.
_KIN = {
    "backbone/class_token": "internvideo2",
    "backbone/video_embed": "vjepa21",
    "backbone/final_norm/scale": "vjepa2",
}
# What tells the backbones of other kinds apart.
_MARKS = {
    "backbone/stem/conv1a/unit/conv/kernel": "i3d",
    "backbone/stem/space/conv/kernel": "r2plus1d",
    "backbone/stem/conv1/conv/kernel": "tsm",
    "backbone/stem/slow/conv/kernel": "slowfast",
    "backbone/stage0/blocks/attention/position_bias": "swin",
}


def _depths(shapes: Shapes, name: str) -> list[int]:
    """Blocks of each layer."""

    def rows(prefix: str) -> int:
        return next((shape[0] for path, shape in shapes.items() if path.startswith(prefix)), 0)

    if name == "i3d":  # one published depth: nothing in a file could say another
        return list(I3d().depths)
    if name == "swin":
        return [rows(f"backbone/stage{stage}/blocks/") for stage in range(4)]
    return [1 + rows(f"backbone/layer{layer}/rest/") for layer in (1, 2, 3, 4)]


def _adapter(shapes: Shapes, method: str, adapted: list[int]) -> dict[str, Any]:
    count, width, hidden = shapes["adapter/down/kernel"]
    found = dict(method=method, count=count, width=width, hidden=hidden)
    if adapted:
        found["layers"] = adapted
    if "adapter/dwconv/kernel" in shapes:
        found["kernel"] = shapes["adapter/dwconv/kernel"][1]
    return found


def _count(shapes: Shapes, pattern: str) -> int:
    return len({found[0] for path in shapes if (found := re.match(pattern, path))})


def _anchor_free(shapes: Shapes) -> dict[str, Any]:
    """ActionFormer or TriDet, which alone predicts boundaries."""
    _, width, classes = shapes["head/classification/out/kernel"]
    name = "tridet" if "head/start/out/kernel" in shapes else "actionformer"
    found = dict(name=name, width=width, classes=classes, head_convs=_count(shapes, r"head/classification/conv_\d+"))
    if "head/projection/embed_0/conv/kernel" in shapes:
        found["feature_width"] = shapes["head/projection/embed_0/conv/kernel"][1]
    found["convs"] = [_count(shapes, rf"head/projection/{name}_\d+/") for name in ("embed", "stem", "branch")]
    found["levels"] = _count(shapes, r"head/neck/norm_\d+/")
    return found


def _gtad(shapes: Shapes) -> dict[str, Any]:
    _, grouped, width = shapes["head/projection/kernel"]
    found = dict(name="gtad", width=width, feature_width=4 * grouped)  # channels enter in four groups
    found["map_width"], found["map_convs"] = shapes["head/map_out/kernel"][2], _count(shapes, r"head/map_conv_\d+/")
    return found
