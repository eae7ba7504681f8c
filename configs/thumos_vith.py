"""AdaTAD on THUMOS14, VideoMAE ViT-H, 768 frames at 160 x 160.

Published average mAP 74.95 (tIoU 0.3:0.1:0.7: 88.42, 84.63, 78.72, 69.04, 53.95); 19.2 GB a video (OpenTAD's
results page; AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vith.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vith")
