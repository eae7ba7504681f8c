"""The names of V-JEPA 2 and 2.1, InternVideo2 and VideoPrism in public files: tables for layouts.py."""

from convert.mapping import Drop, Rule, dense, norm

_BLOCKS = "backbone/blocks"
_TRAINING = "the predictor of pre-training"
_NO_CLASSIFIER = "the classifier of whole clips"

# ---- V-JEPA ---------------------------------------------------------------------------------------------------------

_VJEPA_BLOCKS = (
    *dense("patch_embed.proj", "backbone/patch_embed", "conv3d"),
    *norm("blocks.{layer}.norm1", f"{_BLOCKS}/norm1"),
    *dense("blocks.{layer}.attn.qkv", f"{_BLOCKS}/attention/qkv"),
    *dense("blocks.{layer}.attn.proj", f"{_BLOCKS}/attention/proj"),
    *norm("blocks.{layer}.norm2", f"{_BLOCKS}/norm2"),
    *dense("blocks.{layer}.mlp.fc1", f"{_BLOCKS}/mlp/fc1"),
    *dense("blocks.{layer}.mlp.fc2", f"{_BLOCKS}/mlp/fc2"),
)
VJEPA2 = (*_VJEPA_BLOCKS, *norm("norm", "backbone/final_norm"))
VJEPA2_DROPS = (Drop("pos_embed", "positions are rotations: the authors' code does not use this table either"),)

VJEPA21 = (
    Rule("video_mod_embed", "backbone/video_embed", "vector"),
    *_VJEPA_BLOCKS,
    *norm("norms_block.{layer}", "backbone/final_norm"),
)
_OF_PICTURES = "for single pictures"
VJEPA21_DROPS = (Drop("img_mod_embed", _OF_PICTURES), Drop("patch_embed_img.*", _OF_PICTURES))

_HF = "encoder.layer.{layer}"


def _vjepa_attention(name: str, j: int) -> tuple[Rule, ...]:
    """One of query, key and value; an early script wrote "attention.attention"."""
    rules = []
    for theirs, ours, transform in (("weight", "kernel", "linear"), ("bias", "bias", "same")):
        torch, alias = (f"{_HF}.{at}.{name}.{theirs}" for at in ("attention", "attention.attention"))
        rules.append(Rule(torch, f"{_BLOCKS}/attention/qkv/{ours}", transform, part=(j, 3), alias=alias))
    return tuple(rules)


def _aliased(rules: tuple[Rule, ...], name: str, alias: str) -> tuple[Rule, ...]:
    return tuple(Rule(r.torch, r.flax, r.transform, alias=r.torch.replace(name, alias)) for r in rules)


VJEPA2_HF = (
    *dense("encoder.embeddings.patch_embeddings.proj", "backbone/patch_embed", "conv3d"),
    *norm(f"{_HF}.norm1", f"{_BLOCKS}/norm1"),
    *(rule for j, name in enumerate(("query", "key", "value")) for rule in _vjepa_attention(name, j)),
    *_aliased(dense(f"{_HF}.attention.proj", f"{_BLOCKS}/attention/proj"), "attention.", "attention.attention."),
    *norm(f"{_HF}.norm2", f"{_BLOCKS}/norm2"),
    *dense(f"{_HF}.mlp.fc1", f"{_BLOCKS}/mlp/fc1"),
    *dense(f"{_HF}.mlp.fc2", f"{_BLOCKS}/mlp/fc2"),
    *norm("encoder.layernorm", "backbone/final_norm"),
)
VJEPA2_HF_DROPS = (
    Drop("predictor.*", _TRAINING),
    Drop("pooler.*", _NO_CLASSIFIER),
    Drop("classifier.*", _NO_CLASSIFIER),
)

# ---- InternVideo2 ---------------------------------------------------------------------------------------------------

INTERNVIDEO2 = (
    Rule("cls_token", "backbone/class_token", "vector"),
    Rule("pos_embed", "backbone/positions", "table"),
    *dense("patch_embed.proj", "backbone/patch_embed", "conv3d"),
    Rule("blocks.{layer}.norm1.weight", f"{_BLOCKS}/norm1/scale"),
    Rule("blocks.{layer}.attn.qkv.weight", f"{_BLOCKS}/attention/qkv/kernel", "linear"),
    Rule("blocks.{layer}.attn.q_norm.weight", f"{_BLOCKS}/attention/q_norm/scale"),
    Rule("blocks.{layer}.attn.k_norm.weight", f"{_BLOCKS}/attention/k_norm/scale"),
    *dense("blocks.{layer}.attn.proj", f"{_BLOCKS}/attention/proj"),
    Rule("blocks.{layer}.ls1.gamma", f"{_BLOCKS}/attention_scale"),
    Rule("blocks.{layer}.norm2.weight", f"{_BLOCKS}/norm2/scale"),
    *dense("blocks.{layer}.mlp.fc1", f"{_BLOCKS}/mlp/fc1"),
    *dense("blocks.{layer}.mlp.fc2", f"{_BLOCKS}/mlp/fc2"),
    Rule("blocks.{layer}.ls2.gamma", f"{_BLOCKS}/mlp_scale"),
)
_IN_TRAINING = "for the losses of pre-training"
INTERNVIDEO2_DROPS = (
    *(Drop(f"{name}.*", _NO_CLASSIFIER) for name in ("clip_projector", "fc_norm", "head")),
    *(Drop(name, _IN_TRAINING) for name in ("clip_pos_embed", "mae_pos_embed")),
    *(Drop(f"{name}.*", _IN_TRAINING) for name in ("clip_decoder", "final_clip_decoder", "mae_decoder")),
)

# ---- VideoPrism -----------------------------------------------------------------------------------------------------


def _videoprism_stack(kind: str) -> tuple[Rule, ...]:
    """One of the two stacks, as Flax wrote it: all layers in one array, heads on an axis of their own."""
    theirs, ours = f"{kind}_encoder/transformers_stack/x_layers", f"backbone/{kind}_blocks"
    attention, mlp = f"{theirs}/self_attention", f"{theirs}/ff_layer"
    rules = [
        *_same(f"{theirs}/layer_norm", f"{ours}/norm1", "scale"),
        Rule(f"{attention}/post/w", f"{ours}/attention/proj/kernel", "heads_out"),
        Rule(f"{attention}/post/b", f"{ours}/attention/proj/bias"),
        *_same(f"{mlp}/layer_norm", f"{ours}/norm2", "scale"),
        *_same(f"{mlp}/ffn_layer1/linear", f"{ours}/mlp/fc1", "kernel"),
        *_same(f"{mlp}/ffn_layer2/linear", f"{ours}/mlp/fc2", "kernel"),
    ]
    for j, name in enumerate(("query", "key", "value")):
        for theirs_, ours_ in (("w", "kernel"), ("b", "bias")):
            to = f"{ours}/attention/qkv/{ours_}"
            rules.append(Rule(f"{attention}/{name}/{theirs_}", to, "heads", part=(j, 3)))
    return tuple(rules)


def _same(theirs: str, ours: str, first: str) -> tuple[Rule, ...]:
    return tuple(Rule(f"{theirs}/{name}", f"{ours}/{name}") for name in (first, "bias"))


VIDEOPRISM = (
    Rule("patch_projection/linear/kernel", "backbone/patch_embed/kernel", "patches"),
    Rule("patch_projection/linear/bias", "backbone/patch_embed/bias"),
    Rule("spatial_pos_emb/emb_var", "backbone/spatial_positions"),
    *_videoprism_stack("spatial"),
    *_same("spatial_ln", "backbone/spatial_norm", "scale"),
    Rule("temporal_pos_emb/emb_var", "backbone/temporal_positions"),
    *_videoprism_stack("temporal"),
    *_same("temporal_ln", "backbone/final_norm", "scale"),
)
_OF_TEXT = "of the model that compares videos with texts"
VIDEOPRISM_DROPS = tuple(
    Drop(f"{name}/*", _OF_TEXT) for name in ("auxiliary_encoder", "text_encoder", "contrastive_vision_pooler")
)


def _videoprism_hf_stack(kind: str) -> tuple[Rule, ...]:
    theirs, ours = f"{kind}_layers.{{layer}}", f"backbone/{kind}_blocks"
    attention = f"{theirs}.attention"
    rules = [
        *norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        *dense(f"{attention}.o_proj", f"{ours}/attention/proj"),
        *norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        *dense(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    ]
    for j, name in enumerate("qkv"):
        to = f"{ours}/attention/qkv"
        rules.append(Rule(f"{attention}.{name}_proj.weight", f"{to}/kernel", "linear", part=(j, 3)))
        rules.append(Rule(f"{attention}.{name}_proj.bias", f"{to}/bias", part=(j, 3)))
    return tuple(rules)


VIDEOPRISM_HF = (
    *dense("spatial_embeddings.patch_embeddings.projection", "backbone/patch_embed", "conv3d"),
    Rule("spatial_embeddings.position_embeddings", "backbone/spatial_positions", "table"),
    *_videoprism_hf_stack("spatial"),
    *norm("layernorm1", "backbone/spatial_norm"),
    Rule("temporal_embeddings.position_embeddings", "backbone/temporal_positions", "table"),
    *_videoprism_hf_stack("temporal"),
    *norm("layernorm2", "backbone/final_norm"),
)
