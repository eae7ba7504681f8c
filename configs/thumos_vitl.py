"""AdaTAD on THUMOS14, VideoMAE ViT-L, 768 frames at 160 x 160.

Published average mAP 73.51 (tIoU 0.3:0.1:0.7: 87.17, 83.58, 76.88, 66.81, 53.13); 11.0 GB a video (OpenTAD's
results page; AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vitl.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vitl")
