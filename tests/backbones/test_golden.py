import pytest

from tests.golden.compare import HERE, failures


@pytest.mark.parametrize(
    "name",
    [
        "i3d_keys.json",
        "r2plus1d18.npz",
        "r2plus1d18_real.npz",
        "r2plus1d18_torchvision_real.npz",
        "r2plus1d18_keys.json",
        "tsm_r18.npz",
        "tsm_r18_real.npz",
        "tsm_r18_keys.json",
        "slowfast_r50.npz",
        "slowfast_r50_real.npz",
        "slowfast_r50_keys.json",
        "internvideo2.npz",
        "internvideo2_keys.json",
        "videoprism.npz",
        "videoprism_keys.json",
        "vjepa2.npz",
        "vjepa2_keys.json",
        "vjepa2_1.npz",
        "vjepa2_1_keys.json",
        "video_swin.npz",
        "video_swin_tiny_real.npz",
        "video_swin_keys.json",
    ],
)
def test_reference_numbers(name):
    assert failures(HERE / name) == []
