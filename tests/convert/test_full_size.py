"""Every published size, random weights in the authors' layout: PyTorch's features of one real clip against ours."""

import pathlib
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tadjax.backbones.vit import CLIP_FRAMES, MEAN, SIZES, STD, Vit, sine_cosine
from tadjax.workdir.weights import load_backbone

ROOT = pathlib.Path(__file__).parents[2]
VIDEO = ROOT.parent / "shared" / "videos" / "decord_flipping_a_pancake.mkv"
SIZE = 112  # pixels, a multiple of both patch sizes: a fourth of the usual tokens
pytestmark = pytest.mark.slow


def random_vit(width: int, depth: int, heads: int, patch: int, mlp_width: int) -> dict[str, torch.Tensor]:
    """Weights of the usual sizes: branches neither vanish nor blow up over the depth."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float, mean: float = 0.0) -> torch.Tensor:
        return torch.empty(shape).normal_(mean, scale, generator=generator)

    state_dict = {
        "patch_embed.proj.weight": normal(width, 3, 2, patch, patch, scale=(6 * patch * patch) ** -0.5),
        "patch_embed.proj.bias": normal(width, scale=0.1),
    }
    linears = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (mlp_width, width),
        "mlp.fc2": (width, mlp_width),
    }
    for i in range(depth):
        block = f"blocks.{i}"
        for name in ("norm1", "norm2"):
            state_dict[f"{block}.{name}.weight"] = normal(width, scale=0.1, mean=1.0)
            state_dict[f"{block}.{name}.bias"] = normal(width, scale=0.1)
        for name in ("attn.q_bias", "attn.v_bias"):
            state_dict[f"{block}.{name}"] = normal(width, scale=0.1)
        for name, (out, of) in linears.items():
            state_dict[f"{block}.{name}.weight"] = normal(out, of, scale=of**-0.5)
            if name != "attn.qkv":
                state_dict[f"{block}.{name}.bias"] = normal(out, scale=0.1)
    state_dict |= {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}
    return state_dict | {"head.weight": normal(710, width, scale=0.02), "head.bias": torch.zeros(710)}


@torch.inference_mode()
def torch_tokens(sd: dict[str, torch.Tensor], frames: np.ndarray, heads: int) -> np.ndarray:
    """The published forward pass in plain PyTorch: frames uint8 [T, H, W, 3] -> tokens [N, D] of the last block."""
    clip = (torch.from_numpy(frames).float() - torch.tensor(MEAN)) / torch.tensor(STD)
    kernel = sd["patch_embed.proj.weight"]
    x = F.conv3d(clip.permute(3, 0, 1, 2)[None], kernel, sd["patch_embed.proj.bias"], stride=kernel.shape[2:])
    x = x.flatten(2).transpose(1, 2)  # [1, N, D]
    n, d = x.shape[1:]
    x = x + torch.from_numpy(sine_cosine(n, d))
    for i in range(sum(key.endswith("attn.qkv.weight") for key in sd)):
        w = {key.removeprefix(f"blocks.{i}."): t for key, t in sd.items() if key.startswith(f"blocks.{i}.")}
        h = F.layer_norm(x, (d,), w["norm1.weight"], w["norm1.bias"], 1e-6)
        bias = torch.cat([w["attn.q_bias"], torch.zeros(d), w["attn.v_bias"]])
        q, k, v = F.linear(h, w["attn.qkv.weight"], bias).reshape(1, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, n, d)
        x = x + F.linear(h, w["attn.proj.weight"], w["attn.proj.bias"])
        h = F.layer_norm(x, (d,), w["norm2.weight"], w["norm2.bias"], 1e-6)
        h = F.gelu(F.linear(h, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
        x = x + F.linear(h, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    return x[0].numpy()


def real_clip() -> np.ndarray:
    """Every fourth of 64 frames of a real video, the top left corner: uint8 [16, SIZE, SIZE, 3]."""
    import av

    if not VIDEO.exists():
        pytest.skip(f"{VIDEO} is not there")
    with av.open(str(VIDEO)) as container:
        frames = [f.to_ndarray(format="rgb24") for f, _ in zip(container.decode(video=0), range(64), strict=False)]
    return np.stack([frame[:SIZE, :SIZE] for frame in frames[::4]])


def our_tokens(folder: pathlib.Path, size: str, frames: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    backbone = Vit(**SIZES[size], image=SIZE, dtype=dtype)
    shapes = jax.eval_shape(backbone.init, jax.random.key(0))
    params = load_backbone(folder, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), shapes))

    @jax.jit
    def run(params: dict, frames: jax.Array) -> jax.Array:
        (stage,) = backbone.stages(params)
        x = backbone.embed(params, frames)
        return jax.lax.scan(lambda x, layer: (stage.block(layer, x, None), None), x, stage.params)[0]

    return np.asarray(run(params, frames[None]), np.float32).reshape(-1, backbone.width)


@pytest.mark.parametrize("size", ["s", "b", "l", "h", "g"])
def test_features_of_a_real_clip(size, tmp_path):
    """float32: relative 1e-4; bfloat16: cosine of every token above 0.999. Memory below 1.5 times the file."""
    frames = real_clip()
    assert len(frames) == CLIP_FRAMES
    state_dict = random_vit(**SIZES[size])
    torch.save({"module": state_dict}, tmp_path / "vit.pth")
    want = torch_tokens(state_dict, frames, SIZES[size]["heads"])
    del state_dict
    seconds, peak = convert_apart(tmp_path)
    file_bytes = (tmp_path / "vit.pth").stat().st_size
    (tmp_path / "vit.pth").unlink()

    exact = our_tokens(tmp_path / "vit", size, frames, jnp.float32)
    relative = np.abs(exact - want).max() / np.abs(want).max()
    rounded = our_tokens(tmp_path / "vit", size, frames, jnp.bfloat16)
    shutil.rmtree(tmp_path / "vit")  # pytest keeps the folders of its last runs
    cosine = (rounded * want).sum(-1) / np.linalg.norm(rounded, axis=-1) / np.linalg.norm(want, axis=-1)
    print(
        f"ViT-{size}: {file_bytes / 1e9:.2f} GB converted in {seconds:.0f} s, peak {peak / 1e9:.2f} GB; "
        f"float32 relative {relative:.1e}, bfloat16 cosine min {cosine.min():.5f}"
    )
    assert relative < 1e-4
    assert cosine.min() > 0.999
    if size == "g":  # of the small ones the interpreter and its libraries are most
        assert peak < 1.5 * file_bytes


def convert_apart(folder: pathlib.Path) -> tuple[float, int]:
    """Converts folder/vit.pth to folder/vit in a process of its own: (wall seconds, peak resident bytes)."""
    code = """if True:
        import sys
        from convert.torch_to_flax import main
        from tests.memory import peak_bytes
        status = main()
        print(peak_bytes())
        sys.exit(status)
    """
    command = [sys.executable, "-c", code, "--input", folder / "vit.pth", "--output", folder / "vit"]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return time.monotonic() - begin, int(done.stdout.split()[-1])
