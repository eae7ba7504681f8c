"""Small random checkpoints as the published projects write them (names as their own code has them)."""

import re

import numpy as np
import torch

from tadjax.backbones.vit import sine_cosine
from tests.golden.compare import HERE

WIDTH, DEPTH, HEADS, PATCH, MLP, IMAGE = 24, 4, 2, 8, 40, 32
HIDDEN, CHANNELS, CLASSES, LEVELS = 6, 8, 5, 3
POSITIONS = 8 * (IMAGE // PATCH) ** 2


def tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def positions() -> torch.Tensor:
    return torch.from_numpy(sine_cosine(POSITIONS, WIDTH)[None])


def _norm(name: str, width: int = WIDTH) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, out: int, of: int) -> dict:
    return {f"{name}.weight": (out, of), f"{name}.bias": (out,)}


def vit_shapes(
    fc1: str = "mlp.fc1",
    fc2: str = "mlp.fc2",
    embed: str = "patch_embed.proj",
    *,
    width: int = WIDTH,
    depth: int = DEPTH,
    patch: int = PATCH,
    mlp_width: int = MLP,
) -> dict:
    """The ViT of VideoMAE's authors; with other names for some layers, of mmaction2."""
    shapes = {f"{embed}.weight": (width, 3, 2, patch, patch), f"{embed}.bias": (width,)}
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= _norm(f"{block}.norm1", width)
        shapes |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        shapes |= {f"{block}.attn.qkv.weight": (3 * width, width), **_linear(f"{block}.attn.proj", width, width)}
        shapes |= _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.{fc1}", mlp_width, width) | _linear(f"{block}.{fc2}", width, mlp_width)
    return shapes


def mmaction_shapes() -> dict:
    return vit_shapes("mlp.layers.0.0", "mlp.layers.1", "patch_embed.projection") | _norm("fc_norm")


def tia_shapes(prefixes: list[str]) -> dict:
    shapes = {}
    for name in prefixes:
        shapes |= {f"{name}.gamma": (1,), f"{name}.dwconv.weight": (HIDDEN, 1, 3), f"{name}.dwconv.bias": (HIDDEN,)}
        shapes |= {f"{name}.conv.weight": (HIDDEN, HIDDEN, 1), f"{name}.conv.bias": (HIDDEN,)}
        shapes |= _linear(f"{name}.down_proj", HIDDEN, WIDTH) | _linear(f"{name}.up_proj", WIDTH, HIDDEN)
    return shapes


def huggingface_shapes(q_bias: str = "q_bias", v_bias: str = "v_bias") -> dict:
    embed = "embeddings.patch_embeddings.projection"
    shapes = {f"{embed}.weight": (WIDTH, 3, 2, PATCH, PATCH), f"{embed}.bias": (WIDTH,)}
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        attention = f"{layer}.attention.attention"
        shapes |= {f"{attention}.{name}.weight": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        shapes |= {f"{attention}.{q_bias}": (WIDTH,), f"{attention}.{v_bias}": (WIDTH,)}
        shapes |= _linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        shapes |= _linear(f"{layer}.intermediate.dense", MLP, WIDTH) | _linear(f"{layer}.output.dense", WIDTH, MLP)
        shapes |= _norm(f"{layer}.layernorm_before") | _norm(f"{layer}.layernorm_after")
    return shapes


def _block_shapes(block: str, norm: tuple[int, ...]) -> dict:
    c = CHANNELS
    shapes = {f"{block}.{n}.{part}": norm for n in ("ln1", "ln2") for part in ("weight", "bias")}
    for name in ("query", "key", "value"):
        shapes[f"{block}.attn.{name}_conv.conv.weight"] = (c, 1, 3)
        shapes |= {f"{block}.attn.{name}_norm.{part}": norm for part in ("weight", "bias")}
    for name in ("key", "query", "value", "proj"):
        shapes |= {f"{block}.attn.{name}.weight": (c, c, 1), f"{block}.attn.{name}.bias": (c,)}
    shapes |= {f"{block}.mlp.0.weight": (4 * c, c, 1), f"{block}.mlp.0.bias": (4 * c,)}
    shapes |= {f"{block}.mlp.3.weight": (c, 4 * c, 1), f"{block}.mlp.3.bias": (c,)}
    return shapes | {f"{block}.drop_path_{part}.scale": (1, c, 1) for part in ("attn", "mlp")}


def actionformer_shapes(feature_width: int = WIDTH) -> dict:
    """As in OpenTAD: two embedding convolutions, one stem block, LEVELS - 1 branch blocks."""
    c, shapes = CHANNELS, {}
    for i, width in enumerate((feature_width, c)):
        shapes |= {f"projection.embed.{i}.conv.weight": (c, width, 3), **_norm(f"projection.embed.{i}.norm", c)}
    for block in ["stem.0", *(f"branch.{i}" for i in range(LEVELS - 1))]:
        shapes |= _block_shapes(f"projection.{block}", (c,))
    for i in range(LEVELS):
        shapes |= _norm(f"neck.fpn_norms.{i}", c)
    for tower in ("cls", "reg"):
        for i in range(2):
            shapes |= {f"rpn_head.{tower}_convs.{i}.conv.weight": (c, c, 3)}
            shapes |= _norm(f"rpn_head.{tower}_convs.{i}.norm", c)
    shapes |= {"rpn_head.cls_head.weight": (CLASSES, c, 3), "rpn_head.cls_head.bias": (CLASSES,)}
    shapes |= {"rpn_head.reg_head.weight": (2, c, 3), "rpn_head.reg_head.bias": (2,)}
    return shapes | {f"rpn_head.scale.{i}.scale": () for i in range(LEVELS)}


def actionformer_release_shapes(feature_width: int = WIDTH) -> dict:
    """As in ActionFormer's own release: norms over channels hold [1, C, 1]."""
    c, norm, shapes = CHANNELS, (1, CHANNELS, 1), {}
    for i, width in enumerate((feature_width, c)):
        shapes |= {f"backbone.embd.{i}.conv.weight": (c, width, 3)}
        shapes |= {f"backbone.embd_norm.{i}.{part}": norm for part in ("weight", "bias")}
    for block in ["stem.0", *(f"branch.{i}" for i in range(LEVELS - 1))]:
        shapes |= _block_shapes(f"backbone.{block}", norm)
    for i in range(LEVELS):
        shapes |= {f"neck.fpn_norms.{i}.{part}": norm for part in ("weight", "bias")}
    for tower, out, size in (("cls_head", "cls_head", CLASSES), ("reg_head", "offset_head", 2)):
        for i in range(2):
            shapes |= {f"{tower}.head.{i}.conv.weight": (c, c, 3)}
            shapes |= {f"{tower}.norm.{i}.{part}": norm for part in ("weight", "bias")}
        shapes |= {f"{tower}.{out}.conv.weight": (size, c, 3), f"{tower}.{out}.conv.bias": (size,)}
    return shapes | {f"reg_head.scale.{i}.scale": () for i in range(LEVELS)}


def opentad(layers: list[int] | None = None, side: int = 0) -> dict[str, torch.Tensor]:
    """A whole detector, adapters inside the given layers or `side` of them beside the backbone; without `module.`."""
    backbone = mmaction_shapes()
    if side:
        backbone = {k: v for k, v in backbone.items() if not k.startswith("fc_norm")}
        backbone |= tia_shapes([f"ladders.adapters.{i}" for i in range(side)])
    else:
        backbone |= tia_shapes([f"blocks.{i}.adapter" for i in layers])
    found = tensors({f"backbone.model.backbone.{k}": v for k, v in backbone.items()} | actionformer_shapes())
    found["backbone.model.backbone.pos_embed"] = positions()
    return found | {"rpn_head.loss_normalizer": torch.tensor(100)}


def golden(name: str) -> dict[str, torch.Tensor]:
    """The state dict of a reference model in tests/golden."""
    with np.load(HERE / f"{name}.npz", allow_pickle=False) as arrays:
        return {key[3:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("sd/")}


def tridet_release(opentad: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same model as TriDet's own release names it: LayerNorms hold [1, C, 1], towers are modules."""
    names = (
        (r"projection\.embed\.(\d)\.norm", r"backbone.embd_norm.\1"),
        (r"projection\.embed", "backbone.embd"),
        (r"projection", "backbone"),
        (r"rpn_head\.cls_(start|end)_convs\.(\d)\.(conv|norm)", r"\1_head.\3.\2"),
        (r"rpn_head\.(cls|reg)_convs\.(\d)\.(conv|norm)", r"\1_head.\3.\2"),
        (r"_head\.conv\.(\d)", r"_head.head.\1.conv"),
        (r"rpn_head\.cls_(start|end)_head", r"\1_head.cls_head.conv"),
        (r"rpn_head\.cls_head", "cls_head.cls_head.conv"),
        (r"rpn_head\.reg_head", "reg_head.offset_head.conv"),
        (r"rpn_head\.scale", "reg_head.scale"),
    )
    found = {}
    for name, tensor in opentad.items():
        layer_norm = re.search(r"norm|\.ln\.", name) and tensor.ndim == 1
        for theirs, ours in names:
            name = re.sub(f"^{theirs}" if not theirs.startswith("_") else theirs, ours, name)
        found[name] = tensor[None, :, None] if layer_norm else tensor
    return {name: tensor for name, tensor in found.items() if name != "rpn_head.loss_normalizer"}


def under(prefix: str, state_dict: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state_dict.items()}


def all_layouts() -> dict[str, tuple[str, str, dict]]:
    """{case: (layout, file name, what torch.save or save_file writes)}."""
    official = tensors(vit_shapes() | _norm("fc_norm") | _linear("head", 7, WIDTH))
    decoder = {"decoder.blocks.0.mlp.fc1.weight": (8, 6), "encoder_to_decoder.weight": (6, WIDTH)}
    pretraining = under("encoder.", tensors(vit_shapes() | _norm("norm"))) | tensors(
        decoder | {"mask_token": (1, 1, 6)}
    )
    mmaction = tensors(mmaction_shapes()) | {"pos_embed": positions()}
    classifier = tensors(_linear("cls_head.fc_cls", 7, WIDTH))
    huggingface = under("videomae.", tensors(huggingface_shapes())) | tensors(
        _linear("classifier", 7, WIDTH) | _norm("fc_norm")
    )
    in_memory = tensors(huggingface_shapes("query.bias", "value.bias") | _norm("layernorm"))
    detector, side = under("module.", opentad(layers=[1, 3])), under("module.", opentad(side=2))
    release = under("module.", tensors(actionformer_release_shapes()))
    features = under("module.", tensors(actionformer_shapes()) | {"rpn_head.loss_normalizer": torch.tensor(98.5)})
    return {
        "official": ("videomae", "vit.pth", {"module": official}),
        "official, bare": ("videomae", "vit.pth", official),
        "official, compiled, float16": (
            "videomae",
            "vit.pth",
            {"model": under("_orig_mod.backbone.", {k: v.half() for k, v in official.items()}), "epoch": 3},
        ),
        "official, on the hub": ("videomae", "model.safetensors", under("model.", official)),
        "official, bfloat16": ("videomae", "vit.pth", {"model": {k: v.bfloat16() for k, v in official.items()}}),
        "pre-training": ("videomae", "vit.pth", {"model": pretraining, "args": None}),
        "mmaction2": ("mmaction", "vit.pth", {"state_dict": under("backbone.", mmaction) | classifier, "meta": {}}),
        "hugging face": ("huggingface", "pytorch_model.bin", huggingface),
        "hugging face, safetensors": ("huggingface", "model.safetensors", huggingface),
        "hugging face, in memory": ("huggingface", "model.safetensors", in_memory),
        "AdaTAD": ("opentad_adatad", "epoch_47.pth", {"epoch": 47, "state_dict": detector}),
        "AdaTAD with EMA": (
            "opentad_adatad",
            "epoch_47.pth",
            {"epoch": 47, "state_dict": {k: v * 2 for k, v in detector.items()}, "state_dict_ema": detector},
        ),
        "AdaTAD-dagger": ("opentad_adatad_side", "best.pth", {"epoch": 47, "state_dict_ema": side}),
        "ActionFormer, OpenTAD": ("opentad_actionformer", "best.pth", {"epoch": 47, "state_dict": features}),
        "TriDet, OpenTAD": ("opentad_tridet", "best.pth", {"state_dict": under("module.", golden("tridet"))}),
        "TriDet, release": (
            "tridet_release",
            "best.pth.tar",
            {"epoch": 34, "state_dict_ema": under("module.", tridet_release(golden("tridet")))},
        ),
        "G-TAD, OpenTAD": ("opentad_gtad", "best.pth", {"state_dict": under("module.", golden("gtad"))}),
        "ActionFormer, release": ("actionformer_release", "best.pth.tar", {"epoch": 34, "state_dict_ema": release}),
    }


def contents(saved: dict) -> dict[str, torch.Tensor]:
    """The tensors of a saved checkpoint that conversion reads."""
    for wrapper in ("state_dict_ema", "state_dict", "model", "module"):
        if wrapper in saved:
            return saved[wrapper]
    return saved


def bits(tensor: torch.Tensor | np.ndarray) -> bytes:
    tensor = torch.as_tensor(tensor)
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
