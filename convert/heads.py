"""The names of detection heads in public checkpoints: tables for layouts.py."""

from collections.abc import Callable

from convert.mapping import Rule, dense, norm

Block = Callable[[str, str, str], tuple[Rule, ...]]  # torch name, our path, transform of its LayerNorms


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


def _sgp_layer(torch: str, flax: str, norms: str) -> tuple[Rule, ...]:
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


def _opentad(block: Block, towers: dict[str, str]) -> tuple[Rule, ...]:
    """A head without anchors as OpenTAD names it, of these blocks and towers."""
    rules = [
        Rule("projection.embed.{i}.conv.weight", "head/projection/embed_{i}/conv/kernel", "conv1d"),
        *norm("projection.embed.{i}.norm", "head/projection/embed_{i}/norm"),
        *block("projection.stem.{i}", "head/projection/stem_{i}", "same"),
        *block("projection.branch.{i}", "head/projection/branch_{i}", "same"),
        *norm("neck.fpn_norms.{i}", "head/neck/norm_{i}"),
    ]
    for theirs, ours in towers.items():
        convs = f"rpn_head.{theirs}_convs.{{i}}"
        rules.append(Rule(f"{convs}.conv.weight", f"head/{ours}/conv_{{i}}/conv/kernel", "conv1d"))
        rules += norm(f"{convs}.norm", f"head/{ours}/conv_{{i}}/norm")
        rules += dense(f"rpn_head.{theirs}_head", f"head/{ours}/out", "conv1d")
    rules.append(Rule("rpn_head.scale.{layer}.scale", "head/regression/scale"))
    rules.append(Rule("rpn_head.loss_normalizer", "state/loss_normalizer", optional=True))
    return tuple(rules)


def _release(block: Block, towers: dict[str, tuple[str, str]]) -> tuple[Rule, ...]:
    """The same as ActionFormer's and TriDet's own releases name it: LayerNorm parameters are [1, C, 1] there."""
    rules = [
        Rule("backbone.embd.{i}.conv.weight", "head/projection/embed_{i}/conv/kernel", "conv1d"),
        *norm("backbone.embd_norm.{i}", "head/projection/embed_{i}/norm", "channels"),
        *block("backbone.stem.{i}", "head/projection/stem_{i}", "channels"),
        *block("backbone.branch.{i}", "head/projection/branch_{i}", "channels"),
        *norm("neck.fpn_norms.{i}", "head/neck/norm_{i}", "channels"),
    ]
    for theirs, (out, ours) in towers.items():
        rules.append(Rule(f"{theirs}.head.{{i}}.conv.weight", f"head/{ours}/conv_{{i}}/conv/kernel", "conv1d"))
        rules += norm(f"{theirs}.norm.{{i}}", f"head/{ours}/conv_{{i}}/norm", "channels")
        rules += dense(f"{theirs}.{out}.conv", f"head/{ours}/out", "conv1d")
    return (*rules, Rule("reg_head.scale.{layer}.scale", "head/regression/scale"))


# ActionFormer (Zhang et al. 2022) and TriDet (Shi et al. 2023) as OpenTAD names them: {tower there: tower here}.
_TOWERS = {"cls": "classification", "reg": "regression"}
ACTIONFORMER = _opentad(_transformer_block, _TOWERS)
TRIDET = _opentad(_sgp_layer, _TOWERS | {"cls_start": "start", "cls_end": "end"})

# The releases of the two, on features: {tower there: (its last convolution, tower here)}.
_RELEASE_TOWERS = {"cls_head": ("cls_head", "classification"), "reg_head": ("offset_head", "regression")}
_BOUNDARY_TOWERS = {"start_head": ("cls_head", "start"), "end_head": ("cls_head", "end")}
ACTIONFORMER_RELEASE = _release(_transformer_block, _RELEASE_TOWERS)
TRIDET_RELEASE = _release(_sgp_layer, _RELEASE_TOWERS | _BOUNDARY_TOWERS)


def _gcnext(torch: str, flax: str) -> tuple[Rule, ...]:
    """A GCNeXt block of G-TAD."""
    paths = (("tconvs", "temporal", "conv1d"), ("sconvs", "semantic", "conv2d"))
    return tuple(
        rule
        for theirs, ours, transform in paths
        for i in range(3)  # activations lie between
        for rule in dense(f"{torch}.{theirs}.{2 * i}", f"{flax}/{ours}_{i}", transform)
    )


def _gtad() -> tuple[Rule, ...]:
    """G-TAD (Xu et al. 2020) as OpenTAD names it."""
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
        *dense(f"{head}.{{last}}", "head/map_out", "conv2d"),
    )


GTAD = _gtad()
