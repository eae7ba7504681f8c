"""LoFi-E2E on ActivityNet-1.3 with R(2+1)D-18: at its 112 x 112 pixels only time is left to be saved (T-LoFi).

The words of configs/anet_tsm18_lofi.py are understood, "t" being the default. Snippets are those of TSP (16 frames,
every second one), whose weights the encoder starts from; the paper does not say.

    python -m tadjax.main --config=configs/anet_r2plus1d_lofi.py --workdir=RUN
"""

from configs import anet_tsm18_lofi


def get_config(variant: str = ""):
    words = [word for word in variant.split(",") if word]
    named = {*anet_tsm18_lofi.FIDELITIES, *anet_tsm18_lofi.BASELINES} & set(words)
    config = anet_tsm18_lofi.get_config(",".join(words if named else [*words, "t"]))
    config.backbone.name = "r2plus1d"
    if config.backbone.size == "r18":
        config.backbone.size = "18"
        config.window.short_side, config.window.size = 128, 112
    config.backbone.weights = "weights/r2plus1d18_tsp"
    config.window.snippet_frames, config.window.snippet_stride = 16, 2
    return config
