"""AdaTAD on THUMOS14, VideoMAEv2 ViT-g, 768 frames at 160 x 160: the flagship.

Published average mAP 75.06 (tIoU 0.3:0.1:0.7: 88.63, 85.39, 79.17, 68.34, 53.79); 29.9 GB a video (OpenTAD's
results page; AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vitg.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vitg")
