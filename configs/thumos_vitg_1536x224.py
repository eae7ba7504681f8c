"""AdaTAD on THUMOS14, VideoMAEv2 ViT-g, 1536 frames at 224 x 224, adapters in the last half of the layers.

Published average mAP 77.07 (tIoU 0.3:0.1:0.7: 89.93, 86.83, 81.24, 69.97, 57.36)
(OpenTAD's results page).

    python -m tadjax.main --config=configs/thumos_vitg_1536x224.py --workdir=RUN
"""

from configs import thumos

get_config = thumos.with_words("vitg,1536x224")
