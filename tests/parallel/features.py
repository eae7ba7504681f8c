"""Features and their gradients, for every method: a window of 4 clips on one device and on 4 x 2, as JSON.

    python -m tests.parallel.features

In a process of its own, because the number of virtual devices is fixed when JAX starts.
"""

import dataclasses
import json
import sys
import types

import jax
import numpy as np

from tadjax.adaptation.inside import Memory
from tadjax.adaptation.losa import Losa
from tadjax.adaptation.petl import Aim, ShiftedAttention, StAdapter
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import Tia
from tadjax.adaptation.unipt import Unipt
from tadjax.backbones import make_backbone
from tadjax.backbones.i3d import I3d
from tadjax.backbones.r2plus1d import R2plus1d
from tadjax.backbones.slowfast import SlowFast
from tadjax.backbones.swin import Swin
from tadjax.backbones.tsm import Tsm
from tadjax.config.checks import ConfigDict
from tadjax.localizer import Localizer
from tadjax.parallel.mesh import make_mesh, shardings
from tadjax.parallel.shard import spread
from tests.adaptation import tiny

MESH = dict(data=1, clip=4, fsdp=2)
ALL = tuple(range(tiny.BACKBONE.depth))
NO_HEAD = types.SimpleNamespace(init_params=lambda key, width: {})


def vit(**fields) -> Localizer:
    backbone = dataclasses.replace(tiny.BACKBONE, drop_path_rate=0.2)
    return Localizer(backbone, NO_HEAD, feature_length=20, **{"layers": ALL, **fields})


def slowfast(**fields) -> Localizer:
    backbone = SlowFast(depths=(1, 2, 1, 1), stem_width=16, feature_length=20)
    return Localizer(backbone, NO_HEAD, feature_length=20, **fields)


def kin(name: str, **fields) -> Localizer:
    backbone = make_backbone(name, "tiny", np.float32, drop_path_rate=0.2)
    return Localizer(backbone, NO_HEAD, feature_length=20, **fields)


CASES = {
    "V-JEPA 2": kin("vjepa2", adapter=Tia(6), layers=(1, 2, 4), memory=Memory("nested", 1)),
    "V-JEPA 2.1": kin("vjepa21", beside=Side(Tia(6)), layers=(0, 1, 4), memory=Memory(clips_per_group=1)),
    "InternVideo2": kin("internvideo2", adapter=Tia(6), layers=(1, 2, 4), memory=Memory("offload", 1)),
    "InternVideo2, losa": kin("internvideo2", beside=Losa(width=8, image=28, frames=64, clip_steps=8), layers=(0, 3)),
    "VideoPrism": kin("videoprism", adapter=Tia(6), layers=(1, 2, 3, 4), memory=Memory("nested", 1)),
    "full fine-tuning of VideoPrism": kin("videoprism", trains_backbone=True),
    "full fine-tuning of V-JEPA 2.1": kin("vjepa21", trains_backbone=True),
    "full fine-tuning, kernel longer than a shard": vit(adapter=Tia(6, kernel=(21, 1, 1)), trains_backbone=True),
    "block inputs in host memory": vit(adapter=Tia(6, kernel=(3, 3, 3)), memory=Memory("offload")),
    "attention over time in shifted groups": vit(adapter=ShiftedAttention(2, group_steps=8)),
    "side": vit(beside=Side(Tia(6))),
    "side, kernel over space": vit(beside=Side(Tia(6, kernel=(3, 3, 3)))),
    "losa": vit(beside=Losa(width=8, image=32, frames=64, gate="one", short_range_clips=1), layers=ALL[:-1]),
    "unipt": vit(beside=Unipt(), layers=ALL[:-1]),
    "aim": vit(beside=Aim(), memory=Memory("nested", 1)),
    "st_adapter": vit(beside=StAdapter(6)),
    "full fine-tuning of TSM": Localizer(
        Tsm(depths=(1, 2, 1, 1), bottleneck=False, stem_width=8), NO_HEAD, feature_length=20, trains_backbone=True
    ),
    "full fine-tuning of R(2+1)D": Localizer(
        R2plus1d(depths=(1, 2, 1, 1), widths=(8, 8, 16, 16), stem_middle=4),
        NO_HEAD,
        feature_length=20,
        trains_backbone=True,
    ),
    "SlowFast with adapters inside": slowfast(adapter=Tia(kernel=(3, 3, 3)), layers=(1, 3, 4)),
    "Swin with adapters inside": Localizer(
        Swin(stem_width=8, depths=(2, 1, 3, 1), heads=(1, 2, 2, 4), window=(4, 3, 3), drop_path_rate=0.1),
        NO_HEAD,
        feature_length=20,
        adapter=Tia(),
        layers=(2, 4, 5),
    ),
    "I3D with adapters inside, whose pools see negative numbers": Localizer(
        I3d(divisor=16), NO_HEAD, feature_length=20, adapter=Tia(), layers=(0, 1, 2, 4, 7)
    ),
    "SlowFast, losa": slowfast(beside=Losa(width=8, image=32, frames=64, gate="one"), layers=(0, 1, 3)),
}


def starting_params(localizer: Localizer) -> dict:
    params = tiny.away_from_start(jax.jit(localizer.init)(jax.random.key(0)), 1)
    if isinstance(localizer.beside, Losa):
        # SlowFast's outputs saturate the softmax, and then one rounding of the parameters moves gradients by 1e-4.
        params["adapter"]["attention"] = jax.tree.map(lambda a: a / 10, params["adapter"]["attention"])
    return params


def features_and_gradients(localizer: Localizer, params: dict, frames, valid):
    trained = {name: params[name] for name in params if name != "backbone" or localizer.trains_backbone}

    def loss(trained, params, frames):  # all of them arguments: the compiler would try to fold constants
        features = localizer.features({**params, **trained}, frames, jax.random.key(3), valid)
        return (np.linspace(0, 1, features.size).reshape(features.shape) * features**2).sum(), features

    (_, features), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained, params, frames)
    return jax.device_get((features, gradients))


def main(cases: list[str]) -> None:
    mesh = make_mesh(ConfigDict(MESH))
    frames = tiny.frames(2)
    valid = np.arange(20) < np.array([[20], [13]])
    report = {}
    for case in cases or CASES:
        localizer = CASES[case]
        params = starting_params(localizer)
        want = features_and_gradients(localizer, params, frames, valid)
        placed = jax.device_put(params, shardings(params, mesh))
        got = features_and_gradients(spread(localizer, mesh), placed, frames, valid)
        report[case] = tiny.largest_difference(got, want)
    print(json.dumps(report))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main(sys.argv[1:])
