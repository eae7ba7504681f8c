"""AdaTAD on THUMOS14, VideoMAE ViT-B, 768 frames at 160 x 160.

Published average mAP 71.14 (tIoU 0.3:0.1:0.7: 85.95, 81.86, 75.02, 63.29, 49.56); 4.9 GB a video (OpenTAD's
results page; AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vitb.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vitb")
