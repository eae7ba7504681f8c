"""The names of V-JEPA 2 and 2.1 in public checkpoints: tables for layouts.py, and what files hold beside them."""

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
