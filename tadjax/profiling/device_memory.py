"""What lies in a chip's memory at the worst moments of training: live arrays, and what a program works with.

    training     state + batch in use + batches that wait + canvases on their way + what the step works with
    arrival      state + batch on its way + what its augmentation works with; where no batch waits, no step runs then
    evaluation   state + training's batches + evaluation's + what evaluation works with

The training loop keeps to it: a step is begun when the one before the last has ended, so that besides the batch in use
config.data.device_batches others are alive, of which one is being made of its canvas (tadjax/training/arrival.py). Of
evaluation's batches one is worked on and the next one is on its way.
"""

import math
from typing import Any, NamedTuple

import jax

from tadjax.adaptation.host_frames import HostFrames

MOMENTS = ("training", "arrival", "evaluation")


class Plan(NamedTuple):
    """A compiler's plan for one chip, bytes. aliased: of the results that lie where arguments lay."""

    arguments: int
    results: int
    aliased: int
    temporary: int
    on_host: int

    @property
    def work(self) -> int:
        """What it needs besides its arguments."""
        return self.temporary + self.results - self.aliased


def plan_of(compiled: Any) -> Plan:
    """Not of peak_memory_in_bytes: that one counts the host's memory too."""
    found = compiled.memory_analysis()
    return Plan(
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
        found.host_temp_size_in_bytes + found.host_argument_size_in_bytes,
    )


def without_host_frames(plan: Plan, frames: Any) -> Plan:
    """The plan without frames on the host, which compilers for GPUs that are not there count among the arguments."""
    if not isinstance(frames, HostFrames) or frames.words.sharding.memory_kind == "pinned_host":
        return plan
    on_host = bytes_on_chip(frames)
    return plan._replace(arguments=plan.arguments - on_host, on_host=plan.on_host + on_host)


def bytes_on_chip(tree: Any) -> int:
    """Of all arrays or ShapeDtypeStructs of a tree, by their shardings; without a layout's padding."""
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def alive(step: Plan, arrival: Plan | None, evaluation: Plan, *, others: int, params: int, waiting: int) -> dict:
    """Bytes of every part and of the three moments, for one chip.

    arrival: None for features on disk, which come as they are. Where frames wait on the host, it fills none: it makes
    the canvas that it is given into what goes there. others: bytes of a training batch's entries but its
    frames. params: of the parameters that evaluation takes. waiting: config.data.device_batches.
    """
    frames = canvas = augmenting = 0
    if arrival is not None:  # it fills frames that it is given
        frames, canvas, augmenting = arrival.aliased, arrival.arguments - arrival.aliased, arrival.work
    batch = frames + others
    state = step.arguments - batch
    parts = {"state": state, "batch": batch, "waiting": waiting * batch, "canvas": canvas if waiting else 0}
    shown = evaluation.arguments - params + evaluation.results
    return {
        **parts,
        "work": step.work,
        "training": sum(parts.values()) + step.work,
        "arrival": 0 if waiting else state + batch + canvas + augmenting,
        "evaluation": state + waiting * batch + (2 if waiting else 1) * shown + evaluation.temporary,
    }
