"""Some training steps of a tiny AdaTAD: optimizer groups, schedule, losses, clipping, AdamW, EMA."""

import json
import pathlib
import re
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from convert.backbones import MMACTION_VIT, TIA
from convert.heads import ACTIONFORMER
from convert.mapping import flat, to_flax, to_torch, under
from tadjax.adaptation.inside import Memory
from tadjax.adaptation.tia import Tia
from tadjax.backbones.vit import Vit
from tadjax.localizer import Localizer
from tadjax.training.optimizer import labels, make_optimizer, schedules, warmup_cosine
from tadjax.training.state import TrainState, create, make_train_step
from tests.golden.check_actionformer import head_from_config, pad_targets
from tests.golden.compare import Row

PREFIX = "backbone.model.backbone."
RULES = (*under(PREFIX, MMACTION_VIT), *under(PREFIX, TIA), *ACTIONFORMER)
GROUPS = ("adapter", "head_decay", "head_no_decay")  # the reference's order


def matches(name: str, keys: set[str]) -> bool:
    return {"out/lr", "out/grad_norm", "in/frames"} <= keys


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(arrays["config"]))
    optim = optim_of(config)
    with jax.default_matmul_precision("highest"):
        yield from _schedule(arrays, config, optim)
        yield from _groups(arrays, config)
        yield from _steps(arrays, config, optim)


def optim_of(config: dict) -> ConfigDict:
    """config.optim with the settings of the file."""
    rates = [(group["base_lr"], group["weight_decay"]) for group in config["groups"]]
    scheduler = config["scheduler"]
    return ConfigDict(
        dict(
            optimizer="adamw",
            schedule="cosine",
            adapter_lr=rates[0][0],
            adapter_weight_decay=rates[0][1],
            head_lr=rates[1][0],
            head_weight_decay=rates[1][1],
            backbone_lr=0.0,
            backbone_weight_decay=0.0,
            clip_norm=config["clip_grad_norm"],
            warmup_epochs=scheduler["warmup_epoch"],
            schedule_epochs=scheduler["max_epoch"],
            min_lr=scheduler.get("eta_min", 1e-8),
        )
    )


def localizer_of(arrays: dict, config: dict) -> tuple[Localizer, dict]:
    """The model of the file and its initial parameters."""
    vit, width = config["vit"], config["vit"]["embed_dims"]
    params, report = to_flax({k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}, RULES)
    assert not report.missing, report.missing
    ratio = vit.get("mlp_ratio", 4)
    backbone = Vit(width, vit["depth"], vit["num_heads"], vit["patch_size"], int(width * ratio), vit["img_size"])
    hidden = params["adapter"]["down"]["kernel"].shape[-1]
    layers = tuple(vit["adapter_index"])
    head = head_from_config(config["head"])
    length = arrays["in/masks"].shape[-1]
    return Localizer(backbone, head, length, Tia(hidden), layers, Memory("block")), params


def _schedule(arrays: dict, config: dict, optim: ConfigDict) -> Iterator[Row]:
    rates = schedules(optim, config["iters_per_epoch"])
    steps = np.arange(len(arrays["out/lr"]))
    got = np.stack([[float(rates[name](int(step))) for name in GROUPS] for step in steps])
    yield Row("out/lr", got, arrays["out/lr"], atol=1e-6 * max(optim.adapter_lr, optim.head_lr))
    for name, want in arrays.items():
        found = re.fullmatch(r"out/lr_table_len(\d+)_warm(\d+)_max(\d+)_base(.+)", name)
        if found:
            length, warm, total = (int(found[i]) for i in (1, 2, 3))
            base = float(found[4])
            minimum = 0.01 if found[4] == "1" else 1e-8
            rate = jax.vmap(warmup_cosine(base, warm * length, total * length, minimum))
            stop = min(len(want), total * length + 1)  # beyond its end the published cosine rises again; ours stays
            yield Row(name, rate(np.arange(stop)), want[:stop], atol=1e-6 * base)


def _groups(arrays: dict, config: dict) -> Iterator[Row]:
    """Every trained tensor is in the group that the reference put it into."""
    _, params = localizer_of(arrays, config)
    trained = {name: params[name] for name in ("adapter", "head")}
    numbers = jax.tree.map(
        lambda group, array: np.full(array.shape, GROUPS.index(group), np.float32), labels(trained), trained
    )
    ours = to_torch(numbers, RULES, config["vit"]["adapter_index"])
    want = {name: i for i, group in enumerate(config["groups"]) for name in group["names"]}
    assert set(ours) == set(want), set(ours) ^ set(want)
    got = [float(np.unique(ours[name]).item()) for name in sorted(want)]
    yield Row("config.groups", got, [want[name] for name in sorted(want)])


def _steps(arrays: dict, config: dict, optim: ConfigDict) -> Iterator[Row]:
    localizer, params = localizer_of(arrays, config)
    tx = make_optimizer(optim, config["iters_per_epoch"])
    params_of = {name: params[name] for name in ("backbone", "adapter", "head")}
    state = create(params_of, ("adapter", "head"), localizer, tx, config["ema_decay"])
    state = state.replace(head_state={"loss_normalizer": np.float32(params["state"]["loss_normalizer"])})
    step = jax.jit(make_train_step(localizer, tx, ema_decay=config["ema_decay"], deterministic=True))
    batches = list(_batches(arrays))

    def cost(trained: dict) -> jax.Array:
        losses, _ = localizer.losses({**state.frozen, **trained}, state.head_state, batches[0])
        return losses["loss"]

    grads = _torch(jax.jit(jax.grad(cost))(state.trained), config)
    for name, want in _group(arrays, "grad").items():
        yield Row(f"grad/{name}", grads[name], want, atol=max(1e-6, 4e-5 * float(np.abs(want).max())))

    metrics = []
    for batch in batches:
        state, measured = step(state, batch)
        metrics.append({**measured, "loss_normalizer": state.head_state["loss_normalizer"]})
    names = dict(cls_loss="classification", reg_loss="regression", cost="loss", grad_norm="grad_norm")
    for theirs, ours in {**names, "loss_normalizer": "loss_normalizer"}.items():
        yield Row(f"out/{theirs}", [float(m[ours]) for m in metrics], arrays[f"out/{theirs}"], rtol=1e-5)
    yield from _after(arrays, config, state)


def _after(arrays: dict, config: dict, state: TrainState) -> Iterator[Row]:
    # Softmax does not see these biases: their true gradient is zero, and AdamW blows rounding noise up to the rate.
    noise = max(1e-4, 6 * float(arrays["out/lr"][:, 1:].sum(0).max()))
    ema_tolerance = 2e-7 if config["ema_decay"] >= 0.999 else 5e-7
    for kind, tree, tolerance in (("final", state.trained, 2e-6), ("ema", state.ema, ema_tolerance)):
        ours = _torch(tree, config)
        for name, want in _group(arrays, kind).items():
            if name != "rpn_head.loss_normalizer":
                blind = name.endswith(("attn.key.bias", "attn.key_norm.bias"))
                yield Row(f"{kind}/{name}", ours[name], want, atol=noise if blind else tolerance)


def _batches(arrays: dict) -> Iterator[dict[str, np.ndarray]]:
    counts = arrays["in/gt_count"]
    ends = np.cumsum(counts.sum(1))
    most = int(counts.max())
    for i, end in enumerate(ends):
        rows = slice(end - counts[i].sum(), end)
        targets = pad_targets(counts[i], arrays["in/gt_segments"][rows], arrays["in/gt_labels"][rows])
        targets = {k: np.pad(v, [(0, 0), (0, most - v.shape[1])] + [(0, 0)] * (v.ndim - 2)) for k, v in targets.items()}
        frames = arrays["in/frames"][i][:, 0].transpose(0, 2, 3, 4, 1)
        yield {"frames": frames, "valid": arrays["in/masks"][i].astype(bool), **targets}


def _torch(trained: dict, config: dict) -> dict[str, np.ndarray]:
    assert flat(trained)
    return to_torch(jax.tree.map(np.asarray, trained), RULES, config["vit"]["adapter_index"])


def _group(arrays: dict, kind: str) -> dict[str, np.ndarray]:
    return {name[len(kind) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{kind}/")}
