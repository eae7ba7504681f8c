"""AdaTAD-dagger on THUMOS14, VideoMAEv2 ViT-g, 1536 frames at 224 x 224, adapters beside the last half of the layers.

Published average mAP 74.65 (tIoU 0.3:0.1:0.7: 88.43, 84.72, 77.88, 68.51, 53.72; OpenTAD's results page; the paper has
75.4), 43.6 GB a video (AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vitg_side_1536x224.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vitg,side,1536x224")
