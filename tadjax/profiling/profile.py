"""What a config's training step costs: parameters, operations, memory on a chip, time.

`--mode=profile --topology=v5e:1` compiles the real programs (augmentation; forward, backward, optimizer, average;
evaluation) for chips that need not be there and reads the compiler's plans and the step; parameters are shapes, never
numbers. Without --topology the step runs on random numbers on the devices at hand, and is measured.

flops                           of a step over all chips, counted on the traced program, recomputation included
peak_bytes_per_chip             the most that training holds at once; its parts: tadjax/profiling/device_memory.py
compiled_flops_per_chip         of the compiled program, loops multiplied out (as tadjax/profiling/roofline.py counts)
memory_traffic_bytes_per_chip   read from and written to the chip's memory
roofline                        the least seconds a step can take on the chip, whether operations, memory or the network
                                set it, and what that is with one kernel after the other
model_flops_utilisation         operations that need no recomputation, by what the chips could do in a measured step
cores_needed                    host cores that decode frames as fast as the chips take them (a measured step; without
                                one the roofline's), from the speed measured on a video of config.data.videos
"""

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.adaptation import host_frames
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.config.backbones import clip_frames
from tadjax.data.features import feature_folder
from tadjax.data.records import sampling_of, usual_canvas
from tadjax.errors import first_line
from tadjax.files import write_whole
from tadjax.parallel import mesh as meshes
from tadjax.parallel.shard import spread
from tadjax.profiling import decode_speed, device_memory, flops, topologies
from tadjax.profiling.collectives import collectives, totals
from tadjax.profiling.compiled_text import parse
from tadjax.profiling.roofline import BOUNDS, roofline, work
from tadjax.training import fidelity
from tadjax.training.arrival import Arrival
from tadjax.training.loop import abstract_state, step_of
from tadjax.training.optimizer import make_optimizer

CLASSES = 20  # of the head that is profiled; another number changes next to nothing
SEGMENTS = 64  # annotated in a window
MEASURED_STEPS = 5
GIB = 2**30


class Step(NamedTuple):
    """A training step that has not been compiled, and the shapes (with shardings) of its two arguments."""

    function: Any
    state: Any
    batch: dict[str, jax.ShapeDtypeStruct]


def profile(config: Any, workdir: pathlib.Path, topology: str | None) -> dict[str, Any]:
    """Prints the numbers, writes them to workdir/profile.json, and returns them.

    topology: see tadjax/profiling/topologies.py; None for the devices at hand. A step that needs more memory than a
    chip has is a finding, not an error: "fits" is then false. ConfigError for a topology that cannot be described here.
    Of training at low fidelity the numbers are those of each fidelity, by name, beside full fidelity's.
    """
    if topology:
        jax.config.update("jax_platforms", "cpu")  # compiling for other chips needs none of this machine's
    chips = topologies.describe(topology) if topology else topologies.at_hand()
    lower = fidelity.configs(config)
    if "full" in lower:
        numbers = _numbers(config, chips, topology, config)
        text = _table(numbers)
    else:
        lower["full"] = fidelity.at(config, "full")
        numbers = {name: _numbers(at, chips, topology, lower["full"]) for name, at in lower.items()}
        text = _fidelities(numbers)
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / "profile.json", json.dumps(numbers, indent=2) + "\n")
    print(text, file=sys.stderr)
    return numbers


def _numbers(config: Any, chips: topologies.Chips, topology: str | None, evaluated: Any) -> dict[str, Any]:
    """All numbers of one config's step. evaluated: the config as evaluation takes it, at full fidelity."""
    mesh = meshes.make_mesh(config.mesh, chips.devices)
    step = training_step(config, mesh, chips.platform)
    numbers = {"topology": topology or "at hand", "chip": chips.name, "chips": len(chips.devices)}
    numbers |= {"feature_length": config.window.feature_length, "size": config.window.size}
    numbers |= _parameters(config, step) | {"flops": _operations(config)}
    compiled, plan = _memory(config, evaluated, step, mesh, chips)
    numbers |= plan
    frames = config.optim.batch_size * sampling_of(config, train=True).frames
    if compiled is not None:
        try:
            numbers |= _program(compiled.as_text(), chips)
        except jax.errors.JaxRuntimeError as error:  # jaxlib does not know every instruction of the newest compilers
            numbers["program"] = f"cannot be read, so collectives and roofline are not known ({first_line(error)})"
        numbers |= {} if topology else _measure(compiled, step, mesh, frames)
    if chips.peak_flops and "step_seconds" in numbers:
        possible = chips.peak_flops * len(chips.devices) * numbers["step_seconds"]
        numbers["model_flops_utilisation"] = _operations(_without_recomputation(config)) / possible
    numbers |= _decoding(config, numbers, frames)
    return numbers | {"verdict": _verdict(config, numbers)}


def training_step(config: Any, mesh: jax.sharding.Mesh, platform: str) -> Step:
    """The step that tadjax/training/loop.py runs, for `config.optim.batch_size` windows, on a mesh of any devices."""
    meshes.check_batch(config.optim, mesh)
    localizer = spread(build(config, _classes(config), platform), mesh)
    tx = make_optimizer(config.optim, 100)
    state = abstract_state(config, localizer, tx, mesh)
    out_shardings = (jax.tree.map(lambda a: a.sharding, state), None)
    function = jax.jit(step_of(config, localizer, tx), donate_argnums=0, out_shardings=out_shardings)
    return Step(function, state, _batch(config, meshes.batch_shardings(mesh, config.memory.frames)))


def _batch(
    config: Any, shardings: Mapping[str, jax.sharding.Sharding], train: bool = True
) -> dict[str, jax.ShapeDtypeStruct]:
    """Of training; or the windows of evaluation, with entries that these do not have."""
    t, length = sampling_of(config, train).frames, config.window.feature_length
    b = config.optim.batch_size
    if not train:
        b = meshes.rounded_up(config.evaluation.batch_size, shardings["frames"].mesh)
    pictures = {"frames": ((b, t, config.window.size, config.window.size, 3), jnp.uint8)}
    if config.features.path:
        pictures = {"features": ((b, length, feature_folder(config).width), jnp.float32)}
    shapes = {
        **pictures,
        "valid": ((b, length), jnp.bool_),
        "segments": ((b, SEGMENTS, 2), jnp.float32),
        "labels": ((b, SEGMENTS), jnp.int32),
        "segment_valid": ((b, SEGMENTS), jnp.bool_),
        "video": ((b,), jnp.int32),
        "substituted": ((b,), jnp.int32),
    }
    batch = {name: jax.ShapeDtypeStruct(*shape, sharding=shardings[name]) for name, shape in shapes.items()}
    if config.memory.frames == "host" and "frames" in batch:
        batch["frames"] = host_frames.packed(batch["frames"])
    return batch


def _classes(config: Any) -> int:
    return 1 if config.data.class_agnostic else CLASSES


def _parameters(config: Any, step: Step) -> dict[str, Any]:
    def count(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    collections = {**step.state.frozen, **step.state.trained}
    return {
        "method": config.adaptation.method,
        "parameters": {name: count(tree) for name, tree in sorted(collections.items())},
        "parameters_trained": count(step.state.trained),
    }


def _operations(config: Any) -> int:
    """Operations of a step over all chips, counted on plain attention on one device."""
    plain = config.copy_and_resolve_references()
    with plain.unlocked():
        plain.memory.attention = "xla"
    one = meshes.make_mesh(configs.ConfigDict(dict(data=1, clip=1, fsdp=1)), jax.devices()[:1])
    step = training_step(plain, one, "cpu")
    return flops.count(step.function, step.state, step.batch)


def _without_recomputation(config: Any) -> Any:
    plain = config.copy_and_resolve_references()
    with plain.unlocked():
        plain.memory.update(dict(remat="none", clips_per_group=0, taps="store"))
    return plain


def _program(text: str, chips: topologies.Chips) -> dict[str, Any]:
    """What the compiled program does on one chip, and the least time that takes where the chip's speeds are known."""
    program = parse(text)
    done = work(program)
    numbers = {
        "compiled_flops_per_chip": done.operations,
        "memory_traffic_bytes_per_chip": done.memory_bytes,
        "collectives": totals(collectives(program)),
    }
    if chips.peak_flops:
        numbers["roofline"] = roofline(done, chips.peak_flops, chips.bandwidth, chips.network)
    return numbers


def _decoding(config: Any, numbers: dict[str, Any], frames: int) -> dict[str, Any]:
    """How many cores must decode for a step of so many frames not to wait, and how long one measured here waits."""
    seconds = numbers.get("step_seconds") or numbers.get("roofline", {}).get("seconds")
    if config.features.path or seconds is None:
        return {}
    video = decode_speed.any_video(config)
    if video is None:
        return {"cores_needed": None}
    rate, _ = decode_speed.decoding_speed(video, config)
    found = {"decoding_frames_per_second_per_core": rate, "cores_needed": math.ceil(frames / seconds / rate)}
    if "step_seconds" in numbers:
        found["input_wait_seconds"] = max(0.0, frames / rate / decode_speed.decoding_processes(config) - seconds)
    return found


def _compile(lowered: Callable[[], Any], chips: topologies.Chips) -> tuple[Any, int | None]:
    """(the program, None), or (None, the bytes a chip that it would have needed, if known) where it does not fit."""
    try:
        with chips.compiler():
            return lowered().compile(), None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, topologies.needed_bytes(str(error))


def _memory(config: Any, evaluated: Any, step: Step, mesh: jax.sharding.Mesh, chips: topologies.Chips) -> tuple:
    """(the step's program, its memory and that of all that is alive in training, for one chip in bytes).

    The program is None where one of the three that share the memory does not fit by itself.
    """
    start = time.perf_counter()
    programs, needed = {}, None
    for name, lowered in _programs(config, evaluated, step, mesh, chips.platform).items():
        programs[name], needed = _compile(lowered, chips)
        if programs[name] is None:
            limits = {"limit_bytes_per_chip": chips.memory, "fits": False}
            return None, {"peak_bytes_per_chip": needed, "too_large": name, **limits}
    plans = {name: device_memory.plan_of(program) for name, program in programs.items()}
    for name, batch in ("training", step.batch), ("evaluation", _batch_of_evaluation(evaluated, mesh)):
        plans[name] = device_memory.without_host_frames(plans[name], batch.get("frames"))
    parts = _alive(config, step, plans)
    peak = max(parts[moment] for moment in device_memory.MOMENTS)
    return programs["training"], {
        "peak_bytes_per_chip": peak,
        **{f"{name}_bytes_per_chip": size for name, size in parts.items()},
        "host_bytes_per_chip": plans["training"].on_host,
        "limit_bytes_per_chip": chips.memory,
        "fits": chips.memory is None or peak <= chips.memory,
        "compile_seconds": round(time.perf_counter() - start, 1),
    }


def _alive(config: Any, step: Step, plans: dict[str, device_memory.Plan]) -> dict[str, int]:
    return device_memory.alive(
        plans["training"],
        plans.get("arrival"),
        plans["evaluation"],
        others=device_memory.bytes_on_chip({name: a for name, a in step.batch.items() if name != "frames"}),
        params=device_memory.bytes_on_chip(_evaluated_params(step)),
        waiting=config.data.device_batches,
    )


def _programs(config: Any, evaluated: Any, step: Step, mesh: jax.sharding.Mesh, platform: str) -> dict[str, Callable]:
    """What lowers each program of the training loop, by the moment of device_memory.py at which it runs."""
    programs = {"training": lambda: step.function.lower(step.state, step.batch)}
    if "frames" in step.batch:
        canvas = (step.batch["frames"].shape[1], *usual_canvas(config.window.short_side), 3)
        arrival = Arrival(config, mesh, {canvas: config.window.size})
        programs["arrival"] = lambda: arrival.lower(config.optim.batch_size, canvas)
    localizer = spread(build(evaluated, _classes(evaluated), platform), mesh)
    # Unused arguments too, so that the parameters can be told from the batch.
    candidates = jax.jit(localizer.candidates, out_shardings=meshes.batch_sharding(mesh), keep_unused=True)
    batch = _batch_of_evaluation(evaluated, mesh)
    shown = {"frames": batch["features" if evaluated.features.path else "frames"], "valid": batch["valid"]}
    programs["evaluation"] = lambda: candidates.lower(_evaluated_params(step), shown)
    return programs


def _batch_of_evaluation(config: Any, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    return _batch(config, meshes.batch_shardings(mesh, config.memory.frames), train=False)


def _evaluated_params(step: Step) -> dict:
    return {**step.state.frozen, **step.state.trained}


def _measure(compiled: Any, step: Step, mesh: jax.sharding.Mesh, frames: int) -> dict[str, Any]:
    """Runs the compiled step of so many frames on random numbers: its median seconds, frames a second, peak memory."""
    rng = np.random.default_rng(0)

    def random(shape: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(shape.dtype, jnp.floating):
            values = 0.02 * rng.standard_normal(shape.shape, np.float32)
        else:
            values = np.zeros(shape.shape)
        return jax.device_put(values.astype(shape.dtype), shape.sharding)

    state, batch = jax.tree.map(random, step.state), jax.tree.map(random, step.batch)
    seconds = []
    for _ in range(1 + MEASURED_STEPS):  # the first one warms up
        start = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds[1:]))
    numbers = {"step_seconds": median, "frames_per_second": frames / median}
    used = (mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use")
    return numbers | ({} if used is None else {"measured_peak_bytes_per_chip": used})


def _verdict(config: Any, numbers: dict[str, Any]) -> str:
    """Does it fit, what takes the memory, and if it does not, what would make it fit, cheapest first."""
    needed, limit = numbers["peak_bytes_per_chip"], numbers["limit_bytes_per_chip"]
    amount = "more memory than there is" if needed is None else f"{needed / GIB:.2f} GiB a chip"
    if limit is not None:
        amount += f" (of {limit / GIB:.2f})"
    if "too_large" in numbers:
        amount = f"{amount} for the program of {numbers['too_large']} alone"
    else:
        amount = f"{amount}: {_parts(config, numbers)}"
    if numbers["fits"]:
        return f"fits: training needs {amount}"
    return f"does not fit: training needs {amount}. Set {'; then '.join(_remedies(config, numbers))}"


def _parts(config: Any, numbers: dict[str, Any]) -> str:
    def gib(name: str) -> str:
        return f"{numbers[f'{name}_bytes_per_chip'] / GIB:.2f}"

    text = (
        f"parameters, averages and optimizer {gib('state')}, the step's work {gib('work')}, the batch in use "
        f"{gib('batch')}, {config.data.device_batches} waiting {gib('waiting')}, the canvas on its way {gib('canvas')}"
    )
    beside = [f"{moment} {gib(moment)}" for moment in ("arrival", "evaluation") if numbers[f"{moment}_bytes_per_chip"]]
    return f"{text}; between steps {', '.join(beside)}"


def _remedies(config: Any, numbers: dict[str, Any]) -> list[str]:
    memory, method = config.memory, config.adaptation.method
    ways = []
    evaluation = numbers.get("too_large") == "evaluation"
    if evaluation or numbers.get("evaluation_bytes_per_chip", 0) > numbers.get("training_bytes_per_chip", 0):
        ways.append("config.evaluation.batch_size=1 (it is evaluation that needs the most)")
    if not memory.clips_per_group and clip_frames(config):
        ways.append("config.memory.clips_per_group=8 (costs next to nothing)")
    if config.data.device_batches:
        ways.append("config.data.device_batches=0 (the devices wait while a batch moves there)")
    if method in ("side", "losa"):
        if memory.taps != "recompute":
            ways.append("config.memory.taps=recompute (a second frozen forward pass)")
    elif memory.remat != "offload":
        if not memory.remat.startswith("nested"):
            ways.append("config.memory.remat=nested (a third more operations)")
        ways.append("config.memory.remat=offload (block inputs in host memory)")
    if method in ("side", "losa") and memory.frames != "host" and clip_frames(config):
        ways.append("config.memory.frames=host (windows in host memory, a group of clips at a time on the device)")
    if config.optim.batch_size > config.optim.accumulate:
        ways.append("config.optim.accumulate higher (one window at a time)")
    ways.append("config.mesh.clip higher (a window over several chips)")
    if method == "tia":
        ways.append("config.adaptation.method=side (no gradient through the backbone)")
    return ways


def _table(numbers: dict[str, Any]) -> str:
    def shown(name: str, value: Any) -> str:
        if "bytes" in name and isinstance(value, int):
            return f"{value / GIB:.2f} GiB"
        if "flops" in name and isinstance(value, int):
            return f"{value / 1e12:.4g} T"
        if name == "roofline":
            each = ", ".join(f"{bound} {value[f'{bound}_seconds']:.4g} s" for bound in BOUNDS)
            one_by_one = f"kernel by kernel {value['kernel_by_kernel_seconds']:.4g} s"
            return f"{value['seconds']:.4g} s, bound by {value['bound_by']} ({each}); {one_by_one}"
        if name == "cores_needed" and value is None:
            return "not known: decoding is measured on a video of config.data.videos"
        if name == "collectives":
            sent = [f"{of['count']} {kind} ({of['bytes'] / 2**20:.1f} MiB)" for kind, of in value.items()]
            return ", ".join(sent) or "none"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    width = max(len(name) for name in numbers)
    return "\n".join(f"{name:{width}}  {shown(name, value)}" for name, value in numbers.items())


def _fidelities(numbers: dict[str, dict[str, Any]]) -> str:
    """A line for each fidelity: what it costs by itself and by full fidelity."""
    full = numbers["full"]
    lines = [f"{'fidelity':10}{'steps':>6}{'pixels':>8}{'operations':>13}{'of full':>9}{'memory a chip':>16}  fits"]
    for name, one in numbers.items():
        needed = one["peak_bytes_per_chip"]
        memory = "too much" if needed is None else f"{needed / GIB:.2f} GiB"
        lines.append(
            f"{name:10}{one['feature_length']:6}{one['size']:8}{one['flops'] / 1e12:11.2f} T"
            f"{one['flops'] / full['flops']:9.2f}{memory:>16}  {'yes' if one['fits'] else 'no'}"
        )
    return "\n".join(lines)
