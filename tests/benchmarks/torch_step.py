"""The published training step of AdaTAD and AdaTAD-dagger in PyTorch, to measure against on the same device.

As the public implementation runs it: float16 autocast of float32 weights on a GPU (float32 on a CPU), activation
checkpointing block by block, scaled_dot_product_attention, a frozen backbone, AdamW on adapters and head, clipped
gradients, averaged weights. In its favour: no augmentation on the device, and a head and loss of a few convolutions.
Parameters have the names of the public checkpoints (tests/benchmarks/test_torch_step.py).
"""

import json
import statistics
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadjax.backbones.vit import CLIP_FRAMES, CLIP_STEPS, MEAN, PRETRAIN_IMAGE, STD, TUBELET, position_table

WARM_UP, STEPS = 2, 5


class Tia(nn.Module):
    """The temporal-informative adapter: what it adds to tokens x [clips, 8 h w, D] of windows of `steps` steps."""

    def __init__(self, width: int, hidden: int, steps: int):
        super().__init__()
        self.steps = steps
        self.down_proj, self.up_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dwconv = nn.Conv1d(hidden, hidden, 3, padding=1, groups=hidden)
        self.conv = nn.Conv1d(hidden, hidden, 1)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.down_proj(x))
        places = y.shape[1] // CLIP_STEPS
        z = y.unflatten(1, (CLIP_STEPS, places)).reshape(-1, self.steps, places, y.shape[-1])  # [B, T', h w, C]
        z = self.conv(self.dwconv(z.permute(0, 2, 3, 1).flatten(0, 1)))  # [B h w, C, T']
        z = z.unflatten(0, (-1, places)).permute(0, 3, 1, 2).reshape(y.shape)
        return self.gamma * self.up_proj(y + z)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        out = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))  # [clips, heads, tokens, D / heads]
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(width, hidden)]), nn.Linear(hidden, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](F.gelu(self.layers[0][0](x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int, adapter: nn.Module | None):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp, self.adapter = Attention(width, heads), Mlp(width, mlp_width), adapter

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x if self.adapter is None else x + self.adapter(x)


class Vit(nn.Module):
    """Frames [B, 3, T, H, W], 0 to 255 -> features [B, D, T / 2]; adapters inside the blocks, or beside them."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        mlp_width: int,
        frames: int,
        size: int,
        layers: Sequence[int],
        hidden: int,
        side: bool,
        image: int = PRETRAIN_IMAGE,
        recompute: bool = True,
    ):
        super().__init__()
        self.side, self.layers, self.recompute = side, tuple(layers), recompute
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv3d(3, width, (TUBELET, patch, patch), (TUBELET, patch, patch))
        table = position_table(width, image // patch, size // patch, size // patch)
        self.register_buffer("positions", torch.from_numpy(table).flatten(0, 2), persistent=False)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1, 1), persistent=False)
        adapters = [Tia(width, hidden, frames // TUBELET) for _ in self.layers]
        inside = {} if side else dict(zip(self.layers, adapters, strict=True))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width, inside.get(layer)) for layer in range(depth))
        if side:
            self.ladders = nn.Module()
            self.ladders.adapters = nn.ModuleList(adapters)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("adapter" in name)

    def forward(self, frames: Tensor) -> Tensor:
        batch = frames.shape[0]
        clips = ((frames - self.mean) / self.std).unflatten(2, (-1, CLIP_FRAMES)).transpose(1, 2).flatten(0, 1)
        x = self.patch_embed.projection(clips).flatten(2).transpose(1, 2) + self.positions
        x = self._beside(x) if self.side else self._inside(x)
        pooled = x.unflatten(1, (CLIP_STEPS, -1)).mean(2)  # [clips, 8, D]
        return pooled.reshape(batch, -1, pooled.shape[-1]).transpose(1, 2)

    def _inside(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self._remembering_its_input(block, x)
        return x

    def _beside(self, x: Tensor) -> Tensor:
        outputs = {}
        with torch.no_grad():
            for layer, block in enumerate(self.blocks):
                x = block(x)
                if layer in self.layers:
                    outputs[layer] = x
        x = outputs[self.layers[-1]]
        for layer, adapter in zip(self.layers, self.ladders.adapters, strict=True):
            x = x + self._remembering_its_input(adapter, outputs[layer])
        return x

    def _remembering_its_input(self, module: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(module, x, use_reentrant=False) if self.recompute else module(x)


def head(width: int) -> nn.Module:
    """Stands in for a detection head; smaller than ActionFormer's."""
    convs = [nn.Conv1d(width if i == 0 else 512, 512, 3, padding=1) for i in range(8)]
    return nn.Sequential(*(module for conv in convs for module in (conv, nn.ReLU())), nn.Conv1d(512, 22, 3, padding=1))


def report(settings: dict) -> None:
    """Prints {"seconds": median of a step, "peak_gib": on a GPU} of a step of one video, as JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vit = Vit(**settings).to(device)
    model = nn.ModuleList([vit, head(settings["width"]).to(device)])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    averaged = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    shape = (1, 3, settings["frames"], settings["size"], settings["size"])
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.float16, enabled=device == "cuda"):
            out = model[1](vit(frames))
        scaler.scale(out.float().square().mean()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        torch._foreach_lerp_(averaged, [parameter.detach() for parameter in trained], 1e-3)
        return out.detach().sum().item()  # waits for the device

    seconds = []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    found = {"seconds": statistics.median(seconds[WARM_UP:])}
    if device == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(found))
