"""AdaTAD on THUMOS14, VideoMAE ViT-S, 768 frames at 160 x 160.

Published average mAP 69.03 (tIoU 0.3:0.1:0.7: 83.90, 79.01, 72.38, 61.57, 48.27); 2.5 GB a video (OpenTAD's
results page; AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vits.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vits")
