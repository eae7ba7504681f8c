"""The names of backbones, and of the adapters inside and beside them, in public checkpoints: tables for layouts.py.

With each table stands what its files hold that localization does not use.
"""

from collections.abc import Callable

from convert.mapping import Drop, Rule, dense, norm
from tadjax.backbones.i3d import MIXED

NO_NORM = "the features are taken before the final norm"
NO_CLASSIFIER = "the classifier of whole clips"
_NO_DECODER = "the decoder of masked pre-training"
_COMPUTED = "the fixed sine-cosine positions are computed (checked equal)"

# ---- ViTs and their adapters ----------------------------------------------------------------------------------------

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
_ATTENTION = f"{_HF}.attention.attention"
# transformers' VideoMAE: query, key and value are separate, the key has no bias.
HUGGINGFACE_VIT = (
    *dense("embeddings.patch_embeddings.projection", "backbone/patch_embed", "conv3d"),
    *norm(f"{_HF}.layernorm_before", f"{_BLOCKS}/norm1"),
    *(
        Rule(f"{_ATTENTION}.{name}.weight", f"{_BLOCKS}/attention/qkv/kernel", "linear", part=(j, 3))
        for j, name in enumerate(("query", "key", "value"))
    ),
    # Files say q_bias; transformers 5 holds query.bias in memory.
    Rule(f"{_ATTENTION}.q_bias", f"{_BLOCKS}/attention/q_bias", alias=f"{_ATTENTION}.query.bias"),
    Rule(f"{_ATTENTION}.v_bias", f"{_BLOCKS}/attention/v_bias", alias=f"{_ATTENTION}.value.bias"),
    *dense(f"{_HF}.attention.output.dense", f"{_BLOCKS}/attention/proj"),
    *norm(f"{_HF}.layernorm_after", f"{_BLOCKS}/norm2"),
    *dense(f"{_HF}.intermediate.dense", f"{_BLOCKS}/mlp/fc1"),
    *dense(f"{_HF}.output.dense", f"{_BLOCKS}/mlp/fc2"),
)


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

# Of mmaction2's ViT, which keeps its positions in the file.
POSITIONS = Drop("pos_embed", _COMPUTED, positions=True, fill="positions")
FC_NORM = (Drop("fc_norm.weight", NO_NORM, fill="ones"), Drop("fc_norm.bias", NO_NORM, fill="zeros"))

_DECODER_DROPS = (
    Drop("decoder.*", _NO_DECODER),
    Drop("encoder_to_decoder.*", _NO_DECODER),
    Drop("mask_token", _NO_DECODER),
)
VIDEOMAE_DROPS = (
    Drop("pos_embed", _COMPUTED, positions=True),
    Drop("fc_norm.*", NO_NORM),
    Drop("norm.*", NO_NORM),
    Drop("head.*", NO_CLASSIFIER),
    *_DECODER_DROPS,
)
HUGGINGFACE_DROPS = (
    Drop("embeddings.position_embeddings", _COMPUTED, positions=True),
    Drop("layernorm.*", NO_NORM),
    Drop("fc_norm.*", NO_NORM),
    Drop("classifier.*", NO_CLASSIFIER),
    *_DECODER_DROPS,
    Drop("position_embeddings", _NO_DECODER),
)

# ---- convolutions and windows ---------------------------------------------------------------------------------------


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


def _tsm(bottleneck: bool, shifted: str, others: str, norms: str, shortcut: tuple[str, str]) -> tuple[Rule, ...]:
    """A TSM's table by its names for a block's first convolution, which the shift wraps, for the others, and for norms
    ({} is a convolution's number); `shortcut`: for a shortcut's convolution and norm."""

    def block(torch: str, flax: str) -> tuple[Rule, ...]:
        names = (shifted, others, others) if bottleneck else (shifted, others)
        rules = []
        for n, name in enumerate(names, start=1):
            conv, batch_norm = f"{torch}.{name.format(n)}", f"{torch}.{norms.format(n)}"
            rules += conv_norm(conv, batch_norm, f"{flax}/conv{n}", "conv2d_frame")
        return tuple(rules)

    def project(torch: str, flax: str) -> tuple[Rule, ...]:
        conv, batch_norm = (f"{torch}.downsample.{name}" for name in shortcut)
        return conv_norm(conv, batch_norm, f"{flax}/shortcut", "conv2d_frame")

    return (
        *conv_norm(others.format(1), norms.format(1), "backbone/stem/conv1", "conv2d_frame"),
        *residual_layers(block, project, "layer{}", "backbone", (1, 2, 3, 4) if bottleneck else (2, 3, 4)),
    )


_TSM_MMACTION = ("conv{}.conv.net", "conv{}.conv", "conv{}.bn", ("conv", "bn"))
_TSM_RELEASE = ("conv{}.net", "conv{}", "bn{}", ("0", "1"))
_RESNET = ("conv{}", "conv{}", "bn{}", ("0", "1"))
# TSM (Lin et al. 2019) as mmaction2 and OpenTAD name it, and as the authors' repository does.
TSM_R18, TSM_R50 = (_tsm(bottleneck, *_TSM_MMACTION) for bottleneck in (False, True))
TSM_R18_RELEASE, TSM_R50_RELEASE = (_tsm(bottleneck, *_TSM_RELEASE) for bottleneck in (False, True))
# The ResNets of pictures that they grew from: the shift has no parameters.
RESNET18, RESNET50 = (_tsm(bottleneck, *_RESNET) for bottleneck in (False, True))


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

# I3D's units, ours and the paths to them in the two public files: DeepMind's names (joined by "/"), and the PyTorch
# port's. A Mixed block's units stand in both in the same order.
_I3D_STEM = (
    ("backbone/stem/conv1a", "Conv3d_1a_7x7", "Conv3d_1a_7x7"),
    ("backbone/stem/conv2b", "Conv3d_2b_1x1", "Conv3d_2b_1x1"),
    ("backbone/stem/conv2c", "Conv3d_2c_3x3", "Conv3d_2c_3x3"),
)
_I3D_BRANCHES = (
    ("branch0", "Branch_0/Conv3d_0a_1x1", "b0"),
    ("branch1_reduce", "Branch_1/Conv3d_0a_1x1", "b1a"),
    ("branch1", "Branch_1/Conv3d_0b_3x3", "b1b"),
    ("branch2_reduce", "Branch_2/Conv3d_0a_1x1", "b2a"),
    ("branch2", "Branch_2/Conv3d_0b_3x3", "b2b"),
    ("branch3", "Branch_3/Conv3d_0b_1x1", "b3b"),
)


def _i3d(unit: Callable[[str, str, str, bool], tuple[Rule, ...]]) -> tuple[Rule, ...]:
    rules = [rule for ours, deepmind, port in _I3D_STEM for rule in unit(ours, deepmind, port, False)]
    for block in MIXED:
        for ours, deepmind, port in _I3D_BRANCHES:
            names = (f"backbone/mixed_{block}/{ours}", f"Mixed_{block}/{deepmind}", f"Mixed_{block}.{port}")
            rules += unit(*names, True)
    return tuple(rules)


def _deepmind_unit(ours: str, deepmind: str, port: str, stacked: bool) -> tuple[Rule, ...]:
    stack = "_stacked" if stacked else ""
    bias = f"params/{deepmind}/BatchNorm_0/bias"
    return (
        Rule(f"params/{deepmind}/Conv_0/kernel", f"{ours}/unit/conv/kernel", f"same{stack}"),
        Rule(bias, f"{ours}/unit/norm/bias", f"same{stack}"),
        Rule(f"params/{deepmind}/BatchNorm_0/scale", f"{ours}/unit/norm/scale", f"same{stack}", ones_like=bias),
        Rule(f"batch_stats/{deepmind}/BatchNorm_0/mean", f"{ours}/unit/norm/mean", f"channels5d{stack}"),
        Rule(f"batch_stats/{deepmind}/BatchNorm_0/var", f"{ours}/unit/norm/var", f"channels5d{stack}"),
    )


def _port_unit(ours: str, deepmind: str, port: str, stacked: bool) -> tuple[Rule, ...]:
    stack = "_stacked" if stacked else ""
    return (
        Rule(f"{port}.conv3d.weight", f"{ours}/unit/conv/kernel", f"conv3d{stack}"),
        Rule(f"{port}.bn.weight", f"{ours}/unit/norm/scale", f"same{stack}"),
        Rule(f"{port}.bn.bias", f"{ours}/unit/norm/bias", f"same{stack}"),
        Rule(f"{port}.bn.running_mean", f"{ours}/unit/norm/mean", f"same{stack}"),
        Rule(f"{port}.bn.running_var", f"{ours}/unit/norm/var", f"same{stack}"),
    )


I3D_DEEPMIND, I3D_PORT = _i3d(_deepmind_unit), _i3d(_port_unit)

BATCH_NORM_DROPS = (Drop("*num_batches_tracked", "a counter of training steps that inference does not use"),)
SWIN_DROPS = (Drop("*relative_position_index", "follows from the size of the window", fill="offsets"),)
