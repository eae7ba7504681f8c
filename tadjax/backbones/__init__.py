"""The backbones by name. Each module has its class, in the contract of vit.py, and the published SIZES."""

from tadjax.backbones import r2plus1d, slowfast, swin, tsm, vit

# config.backbone.name: (class, {config.backbone.size: its arguments})
BACKBONES = {
    "vit": (vit.Vit, vit.SIZES),
    "slowfast": (slowfast.SlowFast, slowfast.SIZES),
    "swin": (swin.Swin, swin.SIZES),
    "tsm": (tsm.Tsm, tsm.SIZES),
    "r2plus1d": (r2plus1d.R2plus1d, r2plus1d.SIZES),
}
