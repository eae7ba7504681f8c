"""The backbones by name. Each module has its class, in the contract of vit.py, and its SIZES."""

import dataclasses
from typing import Any

from tadjax.backbones import i3d, internvideo2, r2plus1d, slowfast, swin, tsm, videoprism, vit, vjepa

# config.backbone.name: (class, {config.backbone.size: arguments}); tadjax/config/backbones.py has the names.
BACKBONES = {
    "vit": (vit.Vit, vit.SIZES),
    "vjepa2": (vjepa.VJepa, vjepa.SIZES),
    "vjepa21": (vjepa.VJepa, vjepa.SIZES_21),
    "internvideo2": (internvideo2.InternVideo2, internvideo2.SIZES),
    "videoprism": (videoprism.VideoPrism, videoprism.SIZES),
    "slowfast": (slowfast.SlowFast, slowfast.SIZES),
    "swin": (swin.Swin, swin.SIZES),
    "tsm": (tsm.Tsm, tsm.SIZES),
    "r2plus1d": (r2plus1d.R2plus1d, r2plus1d.SIZES),
    "i3d": (i3d.I3d, i3d.SIZES),
}


def make_backbone(name: str, size: str, dtype: Any, **options: Any) -> Any:
    """The backbone of `config.backbone`. options: fields that not all backbones have; each takes those it has."""
    kind, sizes = BACKBONES[name]
    own = {field.name for field in dataclasses.fields(kind)}
    return kind(**sizes[size], dtype=dtype, **{field: value for field, value in options.items() if field in own})
