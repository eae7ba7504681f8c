"""Softmax attention over one clip's tokens, in the form that the platform is fastest with.

Scores of a whole window are never materialised where a fused kernel exists; elsewhere `chunked` bounds them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

HALF = (jnp.bfloat16, jnp.float16)  # what cuDNN takes
QUERY_CHUNK = 256  # queries of one clip whose scores are held at once by "chunked"
SPLASH_BLOCK = 512  # tokens; the sequence is padded to a multiple of it


def resolve(implementation: str, platform: str, dtype: Any, capped: bool = False) -> str:
    """What "auto" means for q, k, v of a dtype on a platform ("cpu", "gpu", "cuda", "tpu"); all else stays as it is.

    capped: the logits are.
    """
    if implementation != "auto":
        return implementation
    if platform in ("gpu", "cuda"):
        return "cudnn" if dtype in HALF and not capped else "chunked"
    return "splash" if platform == "tpu" else "xla"


def attention(q: jax.Array, k: jax.Array, v: jax.Array, implementation: str = "xla", cap: float = 0.0) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v for q, k, v of shape [n, P, heads, d]; same shape and dtype out, softmax in float32.

    cap: if not 0, the softmax is of cap * tanh(logits / cap). `implementation` is one of "xla", "chunked", "cudnn"
    (GPU, float16 or bfloat16; no cap), "splash" (TPU); ValueError if not.
    """
    if implementation == "cudnn" and cap:
        raise ValueError("attention: cudnn caps no logits; take chunked")
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    if implementation == "splash":
        return _splash(q, k, v, cap)
    if implementation == "chunked":
        return _chunked(q, k, v, cap)
    if implementation == "xla":
        return _materialised(q, k, v, cap)
    raise ValueError(f"attention: implementation is {implementation!r}; it must be xla, chunked, cudnn or splash")


def _materialised(q: jax.Array, k: jax.Array, v: jax.Array, cap: float = 0.0) -> jax.Array:
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("nphd,nqhd->nhpq", q * scale, k, preferred_element_type=jnp.float32)
    if cap:
        scores = cap * jnp.tanh(scores / cap)
    return jnp.einsum("nhpq,nqhd->nphd", jax.nn.softmax(scores).astype(v.dtype), v)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array, cap: float = 0.0) -> jax.Array:
    n, tokens, heads, width = q.shape
    chunks = -(-tokens // QUERY_CHUNK)
    size = -(-tokens // chunks)
    padded = jnp.pad(q, ((0, 0), (0, chunks * size - tokens), (0, 0), (0, 0)))
    padded = padded.reshape(n, chunks, size, heads, width).swapaxes(0, 1)
    out = jax.lax.map(
        jax.checkpoint(lambda part: _materialised(part, k, v, cap)), padded
    )  # [chunks, n, size, heads, d]
    return out.swapaxes(0, 1).reshape(n, chunks * size, heads, width)[:, :tokens]


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, cap: float = 0.0) -> jax.Array:
    tokens = q.shape[1]
    padding = -tokens % SPLASH_BLOCK
    q, k, v = (jnp.pad(t, ((0, 0), (0, padding), (0, 0), (0, 0))).swapaxes(1, 2) for t in (q, k, v))
    kernel, segments = _splash_kernel(q.shape[1], tokens + padding, tokens, cap)
    out = jax.vmap(functools.partial(kernel, segment_ids=segments))(q * q.shape[-1] ** -0.5, k, v)
    return out.swapaxes(1, 2)[:, :tokens]


def _splash_kernel(heads: int, padded: int, tokens: int, cap: float):
    """The Pallas kernel, and segment ids that keep the padding to itself."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    block = min(SPLASH_BLOCK, padded)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        use_fused_bwd_kernel=True,
    )
    mask = masks.MultiHeadMask([masks.FullMask((padded, padded))] * heads)
    kernel = splash.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, attn_logits_soft_cap=cap or None
    )
    ids = (jnp.arange(padded) >= tokens).astype(jnp.int32)
    return kernel, splash.SegmentIds(q=ids, kv=ids)
