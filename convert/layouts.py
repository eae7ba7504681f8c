"""Every public checkpoint layout, as data: which torch name is which of our parameters.

To add one: write its rules (see mapping.py for the placeholders), what it holds that localization does not use
(`Drop`), and how a file of it is recognised; append it to LAYOUTS.
"""

import dataclasses
from collections.abc import Callable

from convert.mapping import Drop, Rule


def norm(torch: str, flax: str, transform: str = "same") -> tuple[Rule, ...]:
    """LayerNorm: weight -> scale, bias -> bias."""
    return Rule(f"{torch}.weight", f"{flax}/scale", transform), Rule(f"{torch}.bias", f"{flax}/bias", transform)


def dense(torch: str, flax: str, transform: str = "linear") -> tuple[Rule, ...]:
    """A layer with kernel and bias; `transform` is the kernel's."""
    return Rule(f"{torch}.weight", f"{flax}/kernel", transform), Rule(f"{torch}.bias", f"{flax}/bias")


def conv_norm(conv: str, batch_norm: str, flax: str, transform: str = "conv3d") -> tuple[Rule, ...]:
    """A convolution without bias and its batch norm."""
    return (
        Rule(f"{conv}.weight", f"{flax}/conv/kernel", transform),
        *norm(batch_norm, f"{flax}/norm"),
        Rule(f"{batch_norm}.running_mean", f"{flax}/norm/mean"),
        Rule(f"{batch_norm}.running_var", f"{flax}/norm/var"),
    )


def residual_layers(
    block: Callable[[str, str], tuple[Rule, ...]],
    project: Callable[[str, str], tuple[Rule, ...]],
    torch: str,
    flax: str,
    projected: tuple[int, ...] = (2, 3, 4),
) -> tuple[Rule, ...]:
    """Four layers of a ResNet: block 0, with a convolution in the shortcut of the `projected` layers, and the rest."""
    rules = []
    for number in (1, 2, 3, 4):
        first = (torch.format(number) + ".0", f"{flax}/layer{number}/first")
        rules += block(*first) + (project(*first) if number in projected else ())
        rules += block(torch.format(number) + ".{rest}", f"{flax}/layer{number}/rest")
    return tuple(rules)


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
WRAPPERS = ("state_dict_ema", "state_dict", "model", "module", "model_state", "")
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


def _r2plus1d_block(torch: str, flax: str) -> tuple[Rule, ...]:
    return tuple(
        rule
        for n in (1, 2)
        for rule in (
            *conv_norm(f"{torch}.conv{n}.0.0", f"{torch}.conv{n}.0.1", f"{flax}/space{n}"),
            *conv_norm(f"{torch}.conv{n}.0.3", f"{torch}.conv{n}.1", f"{flax}/time{n}"),
        )
    )


def _numbered_shortcut(torch: str, flax: str) -> tuple[Rule, ...]:
    return conv_norm(f"{torch}.downsample.0", f"{torch}.downsample.1", f"{flax}/shortcut")


# R(2+1)D of torchvision, and of TSP (Alwassel et al. 2021), which differ in sizes only.
R2PLUS1D = (
    *conv_norm("stem.0", "stem.1", "backbone/stem/space"),
    *conv_norm("stem.3", "stem.4", "backbone/stem/time"),
    *residual_layers(_r2plus1d_block, _numbered_shortcut, "layer{}", "backbone"),
)


def _tsm(bottleneck: bool, net: str, bn: str, stem_bn: str, shortcut: Callable, conv: str) -> tuple[Rule, ...]:
    """A TSM's table; the placeholders {} of the names stand for the number of a convolution."""

    def block(torch: str, flax: str) -> tuple[Rule, ...]:
        names = {1: net, 2: conv, 3: conv} if bottleneck else {1: net, 2: conv}
        rules = []
        for n, name in names.items():
            kernel, norm_ = f"{torch}.{name.format(n)}", f"{torch}.{bn.format(n)}"
            rules += conv_norm(kernel, norm_, f"{flax}/conv{n}", "conv2d_frame")
        return tuple(rules)

    return (
        *conv_norm(conv.format(1), stem_bn, "backbone/stem/conv1", "conv2d_frame"),
        *residual_layers(block, shortcut, "layer{}", "backbone", (1, 2, 3, 4) if bottleneck else (2, 3, 4)),
    )


def _tsm_mmaction(bottleneck: bool) -> tuple[Rule, ...]:
    def shortcut(torch: str, flax: str) -> tuple[Rule, ...]:
        names = (f"{torch}.downsample.conv", f"{torch}.downsample.bn")
        return conv_norm(*names, f"{flax}/shortcut", "conv2d_frame")

    return _tsm(bottleneck, "conv{}.conv.net", "conv{}.bn", "conv1.bn", shortcut, "conv{}.conv")


def _tsm_release(bottleneck: bool, shifted: str = "conv{}.net") -> tuple[Rule, ...]:
    def shortcut(torch: str, flax: str) -> tuple[Rule, ...]:
        names = (f"{torch}.downsample.0", f"{torch}.downsample.1")
        return conv_norm(*names, f"{flax}/shortcut", "conv2d_frame")

    return _tsm(bottleneck, shifted, "bn{}", "bn1", shortcut, "conv{}")


# TSM (Lin et al. 2019) as mmaction2 and OpenTAD name it, and as the authors' repository does.
TSM_R18, TSM_R50 = _tsm_mmaction(bottleneck=False), _tsm_mmaction(bottleneck=True)
TSM_R18_RELEASE, TSM_R50_RELEASE = _tsm_release(bottleneck=False), _tsm_release(bottleneck=True)
# The ResNets of pictures that they grew from: the shift has no parameters.
RESNET18, RESNET50 = (_tsm_release(bottleneck, "conv{}") for bottleneck in (False, True))


def _slowfast_block(pathway: str) -> Callable[[str, str], tuple[Rule, ...]]:
    def block(torch: str, flax: str) -> tuple[Rule, ...]:
        convs = ((f"{torch}.conv{n}.conv", f"{torch}.conv{n}.bn", f"{flax}/{pathway}/conv{n}") for n in (1, 2, 3))
        return tuple(rule for names in convs for rule in conv_norm(*names))

    return block


def _slowfast_pathway(pathway: str) -> tuple[Rule, ...]:
    torch = f"{pathway}_path."

    def shortcut(torch: str, flax: str) -> tuple[Rule, ...]:
        return conv_norm(f"{torch}.downsample.conv", f"{torch}.downsample.bn", f"{flax}/{pathway}/shortcut")

    return (
        *conv_norm(f"{torch}conv1.conv", f"{torch}conv1.bn", f"backbone/stem/{pathway}"),
        *residual_layers(_slowfast_block(pathway), shortcut, torch + "layer{}", "backbone", (1, 2, 3, 4)),
    )


# SlowFast (Feichtenhofer et al. 2019) of mmaction2, whose lateral convolutions have no norm. They stand after a layer
# there, in the first block of the next one here.
SLOWFAST = (
    *_slowfast_pathway("slow"),
    *_slowfast_pathway("fast"),
    *(
        Rule(f"slow_path.{name}_lateral.conv.weight", f"backbone/layer{n}/first/lateral/conv/kernel", "conv3d")
        for n, name in enumerate(("conv1", "layer1", "layer2", "layer3"), start=1)
    ),
)


def _pyslowfast_pathway(index: int, pathway: str) -> tuple[Rule, ...]:
    rules = [*conv_norm(f"s1.pathway{index}_stem.conv", f"s1.pathway{index}_stem.bn", f"backbone/stem/{pathway}")]
    for n in (1, 2, 3, 4):
        blocks = f"s{n + 1}.pathway{index}_res"
        first, rest = f"backbone/layer{n}/first/{pathway}", f"backbone/layer{n}/rest/{pathway}"
        rules += conv_norm(f"{blocks}0.branch1", f"{blocks}0.branch1_bn", f"{first}/shortcut")
        for number, letter in enumerate("abc", start=1):
            names = (f"branch2.{letter}", f"branch2.{letter}_bn")
            rules += conv_norm(*(f"{blocks}0.{name}" for name in names), f"{first}/conv{number}")
            rules += conv_norm(*(f"{blocks}{{rest}}.{name}" for name in names), f"{rest}/conv{number}")
    return tuple(rules)


# PySlowFast, the authors' own: a norm follows each lateral convolution.
PYSLOWFAST = (
    *_pyslowfast_pathway(0, "slow"),
    *_pyslowfast_pathway(1, "fast"),
    *(
        rule
        for n in (1, 2, 3, 4)
        for rule in conv_norm(f"s{n}_fuse.conv_f2s", f"s{n}_fuse.bn", f"backbone/layer{n}/first/lateral")
    ),
)


def _swin_stage(number: int) -> tuple[Rule, ...]:
    torch, flax = f"layers.{number}.blocks.{{layer}}", f"backbone/stage{number}/blocks"
    # A stage's merging stands at the end of the one before it there.
    merging = (f"layers.{number - 1}.downsample", f"backbone/stage{number}/merging")
    return (
        *(norm(f"{merging[0]}.norm", f"{merging[1]}/norm") if number else ()),
        *((Rule(f"{merging[0]}.reduction.weight", f"{merging[1]}/reduction/kernel", "linear"),) if number else ()),
        *norm(f"{torch}.norm1", f"{flax}/norm1"),
        Rule(f"{torch}.attn.relative_position_bias_table", f"{flax}/attention/position_bias"),
        *dense(f"{torch}.attn.qkv", f"{flax}/attention/qkv"),
        *dense(f"{torch}.attn.proj", f"{flax}/attention/proj"),
        *norm(f"{torch}.norm2", f"{flax}/norm2"),
        *dense(f"{torch}.mlp.fc1", f"{flax}/mlp/fc1"),
        *dense(f"{torch}.mlp.fc2", f"{flax}/mlp/fc2"),
    )


# Video Swin (Liu et al. 2022) of mmaction2 1.x; the authors' files and mmaction2 0.x call the last norm "norm".
SWIN = (
    *dense("patch_embed.proj", "backbone/patch_embed", "conv3d"),
    *norm("patch_embed.norm", "backbone/patch_embed/norm"),
    *(rule for number in range(4) for rule in _swin_stage(number)),
    Rule("norm3.weight", "backbone/norm/scale", alias="norm.weight"),
    Rule("norm3.bias", "backbone/norm/bias", alias="norm.bias"),
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


def _sgp_layer(torch: str, flax: str, norms: str = "same") -> tuple[Rule, ...]:
    """A scalable-granularity perception layer of TriDet's projection; `norms`: the transform of its LayerNorm."""
    names = {"fc": "fc", "global_fc": "phi", "psi": "psi", "convw": "conv_w", "convkw": "conv_kw"}
    return (
        *norm(f"{torch}.ln", f"{flax}/norm1", norms),
        *(rule for theirs, ours in names.items() for rule in dense(f"{torch}.{theirs}", f"{flax}/{ours}", "conv1d")),
        *norm(f"{torch}.gn", f"{flax}/norm2"),
        *dense(f"{torch}.mlp.0", f"{flax}/mlp/fc1", "pointwise"),
        *dense(f"{torch}.mlp.2", f"{flax}/mlp/fc2", "pointwise"),
        # Only in branch layers, and only where the drop path is on.
        Rule(f"{torch}.drop_path_out.scale", f"{flax}/scale_sgp", "channels", optional=True),
        Rule(f"{torch}.drop_path_mlp.scale", f"{flax}/scale_mlp", "channels", optional=True),
    )


def _tower(torch: str, out: str, flax: str) -> tuple[Rule, ...]:
    """A prediction tower of OpenTAD's heads without anchors."""
    return (
        Rule(f"{torch}.{{i}}.conv.weight", f"{flax}/conv_{{i}}/conv/kernel", "conv1d"),
        *norm(f"{torch}.{{i}}.norm", f"{flax}/conv_{{i}}/norm"),
        *dense(out, f"{flax}/out", "conv1d"),
    )


# TriDet (Shi et al. 2023) as OpenTAD names it.
TRIDET = (
    Rule("projection.embed.{i}.conv.weight", f"{_PROJECTION}/embed_{{i}}/conv/kernel", "conv1d"),
    *norm("projection.embed.{i}.norm", f"{_PROJECTION}/embed_{{i}}/norm"),
    *_sgp_layer("projection.stem.{i}", f"{_PROJECTION}/stem_{{i}}"),
    *_sgp_layer("projection.branch.{i}", f"{_PROJECTION}/branch_{{i}}"),
    *norm("neck.fpn_norms.{i}", "head/neck/norm_{i}"),
    *_tower("rpn_head.cls_convs", "rpn_head.cls_head", _CLASSIFICATION),
    *_tower("rpn_head.reg_convs", "rpn_head.reg_head", _REGRESSION),
    *_tower("rpn_head.cls_start_convs", "rpn_head.cls_start_head", "head/start"),
    *_tower("rpn_head.cls_end_convs", "rpn_head.cls_end_head", "head/end"),
    Rule("rpn_head.scale.{layer}.scale", f"{_REGRESSION}/scale"),
    Rule("rpn_head.loss_normalizer", "state/loss_normalizer", optional=True),
)


def _release_tower(torch: str, out: str, flax: str) -> tuple[Rule, ...]:
    """A prediction tower of TriDet's own release."""
    return (
        Rule(f"{torch}.head.{{i}}.conv.weight", f"{flax}/conv_{{i}}/conv/kernel", "conv1d"),
        *norm(f"{torch}.norm.{{i}}", f"{flax}/conv_{{i}}/norm", "channels"),
        *dense(f"{torch}.{out}.conv", f"{flax}/out", "conv1d"),
    )


# The release of TriDet itself, on features.
TRIDET_RELEASE = (
    Rule("backbone.embd.{i}.conv.weight", f"{_PROJECTION}/embed_{{i}}/conv/kernel", "conv1d"),
    *norm("backbone.embd_norm.{i}", f"{_PROJECTION}/embed_{{i}}/norm", "channels"),
    *_sgp_layer("backbone.stem.{i}", f"{_PROJECTION}/stem_{{i}}", "channels"),
    *_sgp_layer("backbone.branch.{i}", f"{_PROJECTION}/branch_{{i}}", "channels"),
    *norm("neck.fpn_norms.{i}", "head/neck/norm_{i}", "channels"),
    *_release_tower("cls_head", "cls_head", _CLASSIFICATION),
    *_release_tower("reg_head", "offset_head", _REGRESSION),
    *_release_tower("start_head", "cls_head", "head/start"),
    *_release_tower("end_head", "cls_head", "head/end"),
    Rule("reg_head.scale.{layer}.scale", f"{_REGRESSION}/scale"),
)


def _gcnext(torch: str, flax: str) -> tuple[Rule, ...]:
    """A GCNeXt block of G-TAD."""
    paths = (("tconvs", "temporal", "conv1d"), ("sconvs", "semantic", "conv2d"))
    return tuple(
        rule
        for theirs, ours, transform in paths
        for i in range(3)  # activations lie between
        for rule in dense(f"{torch}.{theirs}.{2 * i}", f"{flax}/{ours}_{i}", transform)
    )


def gtad(map_convs: int = 3) -> tuple[Rule, ...]:
    """G-TAD (Xu et al. 2020) as OpenTAD names it; the last layer's name counts the convolutions of the map."""
    extractor, head = "roi_head.proposal_roi_extractor", "roi_head.proposal_head.head"
    return (
        *dense("projection.convs.0.conv", "head/projection", "conv1d"),
        *_gcnext("neck", "head/neck"),
        *_gcnext("rpn_head.tem.0.0", "head/start_graph"),
        *dense("rpn_head.tem.0.1.conv", "head/start", "conv1d"),
        *_gcnext("rpn_head.tem.1.0", "head/end_graph"),
        *dense("rpn_head.tem.1.1.conv", "head/end", "conv1d"),
        *_gcnext(f"{extractor}.gcnext", "head/alignment/gcnext"),
        *dense(f"{extractor}.conv2d.0", "head/alignment", "conv2d"),
        *dense(f"{head}.{{i}}.0", "head/map_conv_{i}", "conv2d"),
        *dense(f"{head}.{map_convs}", "head/map_out", "conv2d"),
    )


GTAD = gtad()


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
BATCH_NORM_DROPS = (Drop("*num_batches_tracked", "a counter of training steps that inference does not use"),)
_TSM_DROPS = (*BATCH_NORM_DROPS, *(Drop(f"{name}.*", _NO_CLASSIFIER) for name in ("cls_head", "new_fc", "fc")))

SWIN_DROPS = (
    Drop("*relative_position_index", "follows from the size of the window"),
    Drop("cls_head.*", _NO_CLASSIFIER),
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
        name="opentad_tridet",
        title="OpenTAD: TriDet on features",
        signature=("projection.branch.*.convkw.weight", "rpn_head.cls_start_head.weight"),
        absent=("backbone.*",),
        rules=TRIDET,
        wrappers=_OPENTAD_WRAPPERS,
        prefix="module.",
    ),
    Layout(
        name="tridet_release",
        title="TriDet's own release, on features",
        signature=("backbone.branch.*.convkw.weight", "start_head.cls_head.conv.weight"),
        rules=TRIDET_RELEASE,
        wrappers=_OPENTAD_WRAPPERS,
        prefix="module.",
    ),
    Layout(
        name="opentad_gtad",
        title="OpenTAD: G-TAD on features",
        signature=("neck.sconvs.0.weight", "roi_head.proposal_roi_extractor.conv2d.0.weight"),
        absent=("backbone.*",),
        rules=GTAD,
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
    Layout(
        name="r2plus1d",
        title="R(2+1)D of torchvision and TSP",
        signature=("stem.3.weight", "layer1.0.conv1.0.3.weight", "layer4.0.downsample.0.weight"),
        prefixes=("backbone.", "features."),
        rules=R2PLUS1D,
        drops=(*BATCH_NORM_DROPS, Drop("fc*", _NO_CLASSIFIER)),
    ),
    Layout(
        name="slowfast",
        title="mmaction2: SlowFast",
        signature=("slow_path.conv1.conv.weight", "fast_path.conv1.conv.weight"),
        prefixes=("backbone.",),
        rules=SLOWFAST,
        drops=(*BATCH_NORM_DROPS, Drop("cls_head.*", _NO_CLASSIFIER)),
        wrappers=("state_dict",),
        prefix="backbone.",
    ),
    Layout(
        name="pyslowfast",
        title="PySlowFast: SlowFast",
        signature=("s1.pathway0_stem.conv.weight", "s1.pathway1_stem.conv.weight", "s1_fuse.conv_f2s.weight"),
        rules=PYSLOWFAST,
        drops=(*BATCH_NORM_DROPS, Drop("head.*", _NO_CLASSIFIER)),
        wrappers=("model_state",),
    ),
    Layout(
        name="swin",
        title="Video Swin, of mmaction2 and the authors",
        signature=("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"),
        prefixes=("backbone.",),
        rules=SWIN,
        drops=SWIN_DROPS,
        wrappers=("state_dict",),
        prefix="backbone.",
    ),
    Layout(
        name="tsm_r18",
        title="mmaction2: TSM-R18",
        signature=("layer1.0.conv1.conv.net.weight",),
        absent=("layer1.0.conv3.conv.weight",),
        prefixes=("backbone.",),
        rules=TSM_R18,
        drops=_TSM_DROPS,
        wrappers=("state_dict",),
        prefix="backbone.",
    ),
    Layout(
        name="tsm_r50",
        title="mmaction2: TSM-R50",
        signature=("layer1.0.conv1.conv.net.weight", "layer1.0.conv3.conv.weight"),
        prefixes=("backbone.",),
        rules=TSM_R50,
        drops=_TSM_DROPS,
        wrappers=("state_dict",),
        prefix="backbone.",
    ),
    Layout(
        name="tsm_r18_release",
        title="the TSM repository: R18",
        signature=("layer1.0.conv1.net.weight",),
        absent=("layer1.0.conv3.weight",),
        prefixes=("base_model.",),
        rules=TSM_R18_RELEASE,
        drops=_TSM_DROPS,
        wrappers=("state_dict",),
        prefix="base_model.",
    ),
    Layout(
        name="tsm_r50_release",
        title="the TSM repository: R50",
        signature=("layer1.0.conv1.net.weight", "layer1.0.conv3.weight"),
        prefixes=("base_model.",),
        rules=TSM_R50_RELEASE,
        drops=_TSM_DROPS,
        wrappers=("state_dict",),
        prefix="base_model.",
    ),
    Layout(
        name="resnet18",
        title="torchvision: ResNet-18 of pictures, for TSM-R18",
        signature=("conv1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight"),
        absent=("layer1.0.conv3.weight",),
        rules=RESNET18,
        drops=_TSM_DROPS,
        wrappers=("state_dict",),
    ),
    Layout(
        name="resnet50",
        title="torchvision: ResNet-50 of pictures, for TSM-R50",
        signature=("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv3.weight"),
        rules=RESNET50,
        drops=_TSM_DROPS,
        wrappers=("state_dict",),
    ),
)


def layout_named(name: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.name == name)
