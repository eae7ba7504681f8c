"""AdaTAD-dagger on THUMOS14, VideoMAE ViT-S, 768 frames at 160 x 160, adapters beside the last half of the layers.

The settings are OpenTAD's; 1.8 GB a video (AdaTAD paper). No mAP is published with them.

    python -m tadjax.main --config=configs/thumos_vits_side.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vits,side")
