"""LoFi-E2E's low-fidelity mini-batches (Xu et al., "Low-Fidelity End-to-End Video Encoder Pre-training for Temporal
Action Localization", NeurIPS 2021, section 3.2): which resolution in time and space a training step has.

A fidelity divides the feature steps of a window by r_t and its sides by r_s; what the backbone costs falls by
r_t * r_s ** 2, 4 for S, T and ST alike, 16 for the low budget. A config at a fidelity is a config again, with fewer
frames, smaller pictures and (G-TAD) the anchors of the shorter sequence, so no model knows of fidelities: the schedule
runs on every backbone, adaptation and head. Each fidelity has its own static shapes and compiles once.

    S, T, ST    always the same one         low       T and S at once
    C-short     S, T, ST by turns, every cycle_batches steps
    C-long      the same, every cycle_epochs epochs

Imports no JAX.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tadjax.config.backbones import clip_frames

CYCLE = ("s", "t", "st")
SCHEDULES = {
    "full": ("full",),
    "s": ("s",),
    "t": ("t",),
    "st": ("st",),
    "low": ("low",),
    "c_short": CYCLE,
    "c_long": CYCLE,
}


@dataclass(frozen=True)
class Schedule:
    """Which fidelity a step has: `names` by turns, `period` steps each."""

    names: tuple[str, ...]
    period: int = 1

    def at(self, step: int) -> str:
        """The fidelity of step 0, 1, ..."""
        return self.names[step // self.period % len(self.names)]


def schedule(lofi: Any, steps_per_epoch: int) -> Schedule:
    """The schedule of config.lofi."""
    periods = {"c_short": lofi.cycle_batches, "c_long": lofi.cycle_epochs * steps_per_epoch}
    return Schedule(SCHEDULES[lofi.schedule], max(round(periods.get(lofi.schedule, 1)), 1))


def configs(config: Any) -> dict[str, Any]:
    """The config at every fidelity of its schedule, by name, in the order of their turns."""
    return {name: at(config, name) for name in SCHEDULES[config.lofi.schedule]}


def at(config: Any, name: str) -> Any:
    """The config at one fidelity: a copy whose training is wholly of that fidelity.

    The window covers the same stretch of video at 1 / r_t of the feature steps: windows of frames get an r_t times
    larger stride. Sides are rounded to a multiple of `lofi.side_multiple`.
    """
    low = config.copy_and_resolve_references()
    low.lofi.schedule = "full"
    if name == "full":
        return low
    r_t, r_s = int(config.lofi[name][0]), config.lofi[name][1]
    window, head, memory = low.window, low.head, low.memory

    def side(pixels: float) -> int:
        multiple = config.lofi.side_multiple
        return max(round(pixels / multiple), 1) * multiple

    window.frames //= r_t
    window.feature_length //= r_t
    window.stride *= r_t
    window.size = side(config.window.size / r_s)
    window.short_side = round(config.window.short_side * window.size / config.window.size)
    head.gtad.durations = max(head.gtad.durations // r_t, 1)
    clips = window.frames // (clip_frames(config) or 1)
    clips = window.feature_length if window.representation == "snippet" else clips
    memory.clips_per_group = math.gcd(memory.clips_per_group, clips) if memory.clips_per_group else 0
    return low


def disagreements(config: Any) -> list[str]:
    """What stands in the way of the config's schedule, in words: ratios that do not divide the window."""
    wrong, window = [], config.window
    for name in SCHEDULES[config.lofi.schedule]:
        if name == "full":
            continue
        given = tuple(config.lofi[name])
        if len(given) != 2 or given[0] != int(given[0]) or min(given) < 1:
            wrong.append(f"config.lofi.{name} = {given}: (r_t, r_s), a whole number and a number, both at least 1")
        elif window.frames % given[0] or window.feature_length % given[0]:
            wrong.append(
                f"config.lofi.{name} = {given}: r_t must divide config.window.frames = {window.frames} and "
                f"config.window.feature_length = {window.feature_length}"
            )
    return wrong


class Records(Protocol):
    """A training stream (tadjax/data/records.py)."""

    def __len__(self) -> int: ...

    def record(self, n: int) -> dict: ...


class Stream:
    """The training stream whose batches have the fidelity of their step; every record of a batch has the same.

    Record n is record n of the stream of its fidelity: of the same window at any fidelity, where these list as many
    windows, which all but sliding windows do.
    """

    def __init__(self, streams: Mapping[str, Records], schedule: Schedule, batch_size: int):
        self.streams = streams
        self._schedule = schedule
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self.streams[self._schedule.names[0]])

    def record(self, n: int) -> dict:
        return self.streams[self._schedule.at(n // self._batch_size)].record(n)
