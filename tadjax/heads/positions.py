"""Absolute positions of feature steps: the fixed sine-cosine table of ActionFormer and TriDet (off by default)."""

import math

import numpy as np

from tadjax.errors import ConfigError


def position_table(length: int, width: int) -> np.ndarray:
    """f32 [T, C]: sines (even channels) and cosines (odd) of position / 10000^(2 floor(c / 2) / C), over sqrt(C)."""
    channel = np.arange(width)
    angle = np.arange(length)[:, None] / 10000 ** (2 * (channel // 2) / width)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    return table.astype(np.float32) / np.float32(math.sqrt(width))


def resize_table(table: np.ndarray, length: int) -> np.ndarray:
    """[T, C] -> [length, C], linear in time, half-pixel centres, edges clamped; the same table at the same length."""
    source = np.clip((np.arange(length) + 0.5) * (len(table) / length) - 0.5, 0, len(table) - 1)
    below = np.floor(source).astype(int)
    above = np.minimum(below + 1, len(table) - 1)
    share = (source - below)[:, None].astype(np.float32)
    return table[below] * (1 - share) + table[above] * share


def positions(length: int, max_length: int, width: int, train: bool) -> np.ndarray:
    """[1, T, C]: the first T rows of the table; stretched over sequences that are longer than any in training."""
    if train and length > max_length:
        raise ConfigError(
            f"head.absolute_position: a training window of {length} feature steps is longer than head.max_length = "
            f"{max_length}; raise max_length or shorten the window"
        )
    table = position_table(max_length, width)
    return (table[:length] if length < max_length else resize_table(table, length))[None]
