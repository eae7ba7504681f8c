"""Every public checkpoint layout, as data: which torch name is which of our parameters.

To add one: write its rules (see mapping.py for the placeholders), what it holds that localization does not use
(`Drop`), and how a file of it is recognised; append it to LAYOUTS.
"""

import dataclasses

from convert.mapping import Drop, Rule


def norm(torch: str, flax: str, transform: str = "same") -> tuple[Rule, ...]:
    """LayerNorm: weight -> scale, bias -> bias."""
    return Rule(f"{torch}.weight", f"{flax}/scale", transform), Rule(f"{torch}.bias", f"{flax}/bias", transform)


def dense(torch: str, flax: str, transform: str = "linear") -> tuple[Rule, ...]:
    """A layer with kernel and bias; `transform` is the kernel's."""
    return Rule(f"{torch}.weight", f"{flax}/kernel", transform), Rule(f"{torch}.bias", f"{flax}/bias")


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


# Top-level keys under which the tensors may lie, the first found is read: OpenTAD evaluates the moving average of the
# weights; "" is the file itself.
WRAPPERS = ("state_dict_ema", "state_dict", "model", "module", "")
# Left by data-parallel training and torch.compile, in any layout.
PARALLEL_PREFIXES = ("module.", "_orig_mod.")


def under(prefix: str, lines: tuple) -> tuple:
    """The same rules (or drops) for tensors whose names start with `prefix`."""

    def prefixed(line: Rule | Drop) -> Rule | Drop:
        alias = {"alias": prefix + line.alias} if isinstance(line, Rule) and line.alias else {}
        return dataclasses.replace(line, torch=prefix + line.torch, **alias)

    return tuple(map(prefixed, lines))


# ---- backbones ------------------------------------------------------------------------------------------------------

_BLOCKS = "backbone/blocks"

# What VideoMAE's own code, mmaction2 and OpenTAD name alike.
_VIT_COMMON = (
    *norm("blocks.{layer}.norm1", f"{_BLOCKS}/norm1"),
    Rule("blocks.{layer}.attn.q_bias", f"{_BLOCKS}/attention/q_bias"),
    Rule("blocks.{layer}.attn.v_bias", f"{_BLOCKS}/attention/v_bias"),
    Rule("blocks.{layer}.attn.qkv.weight", f"{_BLOCKS}/attention/qkv/kernel", "linear"),
    *dense("blocks.{layer}.attn.proj", f"{_BLOCKS}/attention/proj"),
    *norm("blocks.{layer}.norm2", f"{_BLOCKS}/norm2"),
)

# VideoMAE (Tong et al. 2022), VideoMAEv2 (Wang et al. 2023): the authors' files.
VIDEOMAE = (
    *dense("patch_embed.proj", "backbone/patch_embed", "conv3d"),
    *_VIT_COMMON,
    *dense("blocks.{layer}.mlp.fc1", f"{_BLOCKS}/mlp/fc1"),
    *dense("blocks.{layer}.mlp.fc2", f"{_BLOCKS}/mlp/fc2"),
)

# mmaction2's VisionTransformer, which OpenTAD's backbones are made of.
MMACTION_VIT = (
    *dense("patch_embed.projection", "backbone/patch_embed", "conv3d"),
    *_VIT_COMMON,
    *dense("blocks.{layer}.mlp.layers.0.0", f"{_BLOCKS}/mlp/fc1"),
    *dense("blocks.{layer}.mlp.layers.1", f"{_BLOCKS}/mlp/fc2"),
)

_HF = "encoder.layer.{layer}"
# transformers' VideoMAE: query, key and value are separate, the key has no bias.
HUGGINGFACE_VIT = (
    *dense("embeddings.patch_embeddings.projection", "backbone/patch_embed", "conv3d"),
    *norm(f"{_HF}.layernorm_before", f"{_BLOCKS}/norm1"),
    Rule(f"{_HF}.attention.attention.query.weight", f"{_BLOCKS}/attention/qkv/kernel", "linear", part=(0, 3)),
    Rule(f"{_HF}.attention.attention.key.weight", f"{_BLOCKS}/attention/qkv/kernel", "linear", part=(1, 3)),
    Rule(f"{_HF}.attention.attention.value.weight", f"{_BLOCKS}/attention/qkv/kernel", "linear", part=(2, 3)),
    # Files say q_bias; transformers 5 holds query.bias in memory.
    Rule(
        f"{_HF}.attention.attention.q_bias",
        f"{_BLOCKS}/attention/q_bias",
        alias=f"{_HF}.attention.attention.query.bias",
    ),
    Rule(
        f"{_HF}.attention.attention.v_bias",
        f"{_BLOCKS}/attention/v_bias",
        alias=f"{_HF}.attention.attention.value.bias",
    ),
    *dense(f"{_HF}.attention.output.dense", f"{_BLOCKS}/attention/proj"),
    *norm(f"{_HF}.layernorm_after", f"{_BLOCKS}/norm2"),
    *dense(f"{_HF}.intermediate.dense", f"{_BLOCKS}/mlp/fc1"),
    *dense(f"{_HF}.output.dense", f"{_BLOCKS}/mlp/fc2"),
)


# ---- adapters -------------------------------------------------------------------------------------------------------


def _tia(torch: str) -> tuple[Rule, ...]:
    return (
        *dense(f"{torch}.down_proj", "adapter/down"),
        *dense(f"{torch}.dwconv", "adapter/dwconv", "conv1d"),
        *dense(f"{torch}.conv", "adapter/mid", "pointwise"),
        *dense(f"{torch}.up_proj", "adapter/up"),
        Rule(f"{torch}.gamma", "adapter/alpha"),
    )


TIA = _tia("blocks.{adapted}.adapter")  # AdaTAD (Liu et al. 2024, Section 3.2): inside the blocks
TIA_SIDE = _tia("ladders.adapters.{layer}")  # AdaTAD-dagger: beside them; the index counts adapters, not layers


# ---- heads ----------------------------------------------------------------------------------------------------------


def _transformer_block(torch: str, flax: str, norms: str) -> tuple[Rule, ...]:
    """A block of ActionFormer's projection; `norms`: the transform of its LayerNorms."""
    attention = []
    for name in ("query", "key", "value"):
        conv = Rule(f"{torch}.attn.{name}_conv.conv.weight", f"{flax}/attention/{name}_conv/kernel", "conv1d")
        attention += [conv, *norm(f"{torch}.attn.{name}_norm", f"{flax}/attention/{name}_norm", norms)]
        attention += dense(f"{torch}.attn.{name}", f"{flax}/attention/{name}", "pointwise")
    return (
        *norm(f"{torch}.ln1", f"{flax}/norm1", norms),
        *attention,
        *dense(f"{torch}.attn.proj", f"{flax}/attention/proj", "pointwise"),
        *norm(f"{torch}.ln2", f"{flax}/norm2", norms),
        *dense(f"{torch}.mlp.0", f"{flax}/mlp/fc1", "pointwise"),
        *dense(f"{torch}.mlp.3", f"{flax}/mlp/fc2", "pointwise"),
        # Only where the drop path is on: without it there is no layer scale, which is a scale of one.
        Rule(f"{torch}.drop_path_attn.scale", f"{flax}/scale_attention", "channels", optional=True),
        Rule(f"{torch}.drop_path_mlp.scale", f"{flax}/scale_mlp", "channels", optional=True),
    )


_PROJECTION, _CLASSIFICATION, _REGRESSION = "head/projection", "head/classification", "head/regression"

# ActionFormer (Zhang et al. 2022) as OpenTAD names it.
ACTIONFORMER = (
    Rule("projection.embed.{i}.conv.weight", f"{_PROJECTION}/embed_{{i}}/conv/kernel", "conv1d"),
    *norm("projection.embed.{i}.norm", f"{_PROJECTION}/embed_{{i}}/norm"),
    *_transformer_block("projection.stem.{i}", f"{_PROJECTION}/stem_{{i}}", "same"),
    *_transformer_block("projection.branch.{i}", f"{_PROJECTION}/branch_{{i}}", "same"),
    *norm("neck.fpn_norms.{i}", "head/neck/norm_{i}"),
    Rule("rpn_head.cls_convs.{i}.conv.weight", f"{_CLASSIFICATION}/conv_{{i}}/conv/kernel", "conv1d"),
    *norm("rpn_head.cls_convs.{i}.norm", f"{_CLASSIFICATION}/conv_{{i}}/norm"),
    *dense("rpn_head.cls_head", f"{_CLASSIFICATION}/out", "conv1d"),
    Rule("rpn_head.reg_convs.{i}.conv.weight", f"{_REGRESSION}/conv_{{i}}/conv/kernel", "conv1d"),
    *norm("rpn_head.reg_convs.{i}.norm", f"{_REGRESSION}/conv_{{i}}/norm"),
    *dense("rpn_head.reg_head", f"{_REGRESSION}/out", "conv1d"),
    Rule("rpn_head.scale.{layer}.scale", f"{_REGRESSION}/scale"),
    Rule("rpn_head.loss_normalizer", "state/loss_normalizer", optional=True),
)


# The release of ActionFormer itself, on features: LayerNorm parameters are [1, C, 1] there.
ACTIONFORMER_RELEASE = (
    Rule("backbone.embd.{i}.conv.weight", f"{_PROJECTION}/embed_{{i}}/conv/kernel", "conv1d"),
    *norm("backbone.embd_norm.{i}", f"{_PROJECTION}/embed_{{i}}/norm", "channels"),
    *_transformer_block("backbone.stem.{i}", f"{_PROJECTION}/stem_{{i}}", "channels"),
    *_transformer_block("backbone.branch.{i}", f"{_PROJECTION}/branch_{{i}}", "channels"),
    *norm("neck.fpn_norms.{i}", "head/neck/norm_{i}", "channels"),
    Rule("cls_head.head.{i}.conv.weight", f"{_CLASSIFICATION}/conv_{{i}}/conv/kernel", "conv1d"),
    *norm("cls_head.norm.{i}", f"{_CLASSIFICATION}/conv_{{i}}/norm", "channels"),
    *dense("cls_head.cls_head.conv", f"{_CLASSIFICATION}/out", "conv1d"),
    Rule("reg_head.head.{i}.conv.weight", f"{_REGRESSION}/conv_{{i}}/conv/kernel", "conv1d"),
    *norm("reg_head.norm.{i}", f"{_REGRESSION}/conv_{{i}}/norm", "channels"),
    *dense("reg_head.offset_head.conv", f"{_REGRESSION}/out", "conv1d"),
    Rule("reg_head.scale.{layer}.scale", f"{_REGRESSION}/scale"),
)


# ---- what localization does not use ---------------------------------------------------------------------------------

_NO_NORM = "the features are taken before the final norm"
_NO_CLASSIFIER = "the classifier of whole clips"
_NO_DECODER = "the decoder of masked pre-training"
_COMPUTED = "the fixed sine-cosine positions are computed (checked equal)"

# Of mmaction2's ViT, which keeps its positions in the file.
_POSITIONS = Drop("pos_embed", _COMPUTED, positions=True, fill="positions")
_FC_NORM = (Drop("fc_norm.weight", _NO_NORM, fill="ones"), Drop("fc_norm.bias", _NO_NORM, fill="zeros"))

VIDEOMAE_DROPS = (
    Drop("pos_embed", _COMPUTED, positions=True),
    Drop("fc_norm.*", _NO_NORM),
    Drop("norm.*", _NO_NORM),
    Drop("head.*", _NO_CLASSIFIER),
    Drop("decoder.*", _NO_DECODER),
    Drop("encoder_to_decoder.*", _NO_DECODER),
    Drop("mask_token", _NO_DECODER),
)
HUGGINGFACE_DROPS = (
    Drop("embeddings.position_embeddings", _COMPUTED, positions=True),
    Drop("layernorm.*", _NO_NORM),
    Drop("fc_norm.*", _NO_NORM),
    Drop("classifier.*", _NO_CLASSIFIER),
    Drop("decoder.*", _NO_DECODER),
    Drop("encoder_to_decoder.*", _NO_DECODER),
    Drop("mask_token", _NO_DECODER),
    Drop("position_embeddings", _NO_DECODER),
)


# ---- the layouts ----------------------------------------------------------------------------------------------------

_OPENTAD = "backbone.model.backbone."
_OPENTAD_WRAPPERS = ("state_dict", "state_dict_ema")  # read with and without solver.ema
_OPENTAD_HEAD = ("projection.embed.*.conv.weight", "projection.branch.*.ln1.weight", "rpn_head.cls_head.weight")

LAYOUTS = (
    Layout(
        name="opentad_adatad",
        title="OpenTAD: AdaTAD (ViT, adapters inside), ActionFormer head",
        signature=(_OPENTAD + "blocks.*.adapter.down_proj.weight", *_OPENTAD_HEAD),
        rules=under(_OPENTAD, MMACTION_VIT + TIA) + ACTIONFORMER,
        drops=under(_OPENTAD, (_POSITIONS, *_FC_NORM)),
        adapter="tia",
        wrappers=_OPENTAD_WRAPPERS,
        prefix="module.",
    ),
    Layout(
        name="opentad_adatad_side",
        title="OpenTAD: AdaTAD-dagger (ViT, adapters beside it), ActionFormer head",
        signature=(_OPENTAD + "ladders.adapters.*.down_proj.weight", *_OPENTAD_HEAD),
        rules=under(_OPENTAD, MMACTION_VIT + TIA_SIDE) + ACTIONFORMER,
        drops=under(_OPENTAD, (_POSITIONS,)),
        adapter="side",
        wrappers=_OPENTAD_WRAPPERS,
        prefix="module.",
    ),
    Layout(
        name="opentad_actionformer",
        title="OpenTAD: ActionFormer on features",
        signature=_OPENTAD_HEAD,
        absent=("backbone.*",),
        rules=ACTIONFORMER,
        wrappers=_OPENTAD_WRAPPERS,
        prefix="module.",
    ),
    Layout(
        name="actionformer_release",
        title="ActionFormer's own release, on features",
        signature=("backbone.embd.*.conv.weight", "backbone.branch.*.ln1.weight", "reg_head.offset_head.conv.weight"),
        rules=ACTIONFORMER_RELEASE,
        wrappers=_OPENTAD_WRAPPERS,
        prefix="module.",
    ),
    Layout(
        name="mmaction",
        title="mmaction2: VideoMAE (and backbones converted for OpenTAD)",
        signature=("patch_embed.projection.weight", "blocks.*.attn.q_bias", "blocks.*.mlp.layers.0.0.weight"),
        absent=("*adapter*",),
        prefixes=("backbone.",),
        rules=MMACTION_VIT,
        drops=(_POSITIONS, *_FC_NORM, Drop("norm.*", _NO_NORM), Drop("cls_head.*", _NO_CLASSIFIER)),
        wrappers=("state_dict",),
        prefix="backbone.",
    ),
    Layout(
        name="videomae",
        title="VideoMAE and VideoMAEv2, the authors' files (also on the Hugging Face hub)",
        signature=("patch_embed.proj.weight", "blocks.*.attn.q_bias", "blocks.*.mlp.fc1.weight"),
        prefixes=("model.", "backbone.", "encoder."),
        rules=VIDEOMAE,
        drops=VIDEOMAE_DROPS,
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
        rules=HUGGINGFACE_VIT,
        drops=HUGGINGFACE_DROPS,
    ),
)
