"""ActionFormer on published features of Ego4D moment queries: --config=configs/ego4d_features.py:WORDS, any order.

slowfast egovlp internvideo         whose features: of 2304, 256 or 1024 channels, every 16th, 16th and 8th frame
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

`config.features.path` is a folder with one .npy [T, C] a clip (OpenTAD's `mq_slowfast`, `mq_egovlp`, `mq_internvideo`).
Published average mAP, tIoU 0.1:0.1:0.5 (OpenTAD's results page): slowfast 16.26, egovlp 22.13, internvideo 27.52.

    python -m tadjax.main --config=configs/ego4d_features.py:internvideo --workdir=RUN
"""

from configs import common, ego4d

# channels; stride and offset in frames; features a window; width of the head
FEATURES = {
    "slowfast": (2304, 16, 16, 1024, 512),
    "egovlp": (256, 16, 8, 1024, 384),
    "internvideo": (1024, 8, 4, 2048, 512),
}


def get_config(variant: str = ""):
    kind, tiny = common.pick(variant, tuple(FEATURES), common.TINY)
    channels, stride, offset, length, width = FEATURES[kind]
    config = common.on_features(ego4d.get_config(), f"data/ego4d/{kind}_features", width=channels)
    config.window.frames = config.window.feature_length = config.head.max_length = length
    config.window.stride, config.window.offset = stride, offset
    config.head.width = width
    config.head.input_dropout = 0.2
    if kind != "internvideo":
        config.head.convs = (2, 2, 8)
        with config.ignore_type():  # one window a level
            config.head.attention_window = (9, 9, 9, 9, 9, 9, -1, -1, -1)
        config.head.regression_ranges = (*config.head.regression_ranges[:8], (256, 10000))
    return common.tiny(config) if tiny else config
