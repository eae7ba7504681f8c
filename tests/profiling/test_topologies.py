import importlib.util
import types

import jax
import pytest

from tadjax.errors import ConfigError
from tadjax.profiling import topologies


@pytest.mark.parametrize(
    "topology, message",
    [
        ("v5x:1", "'v5x' is none of v5e, v5p, v6e, a100"),
        ("v5e", "after the colon"),
        ("v5e:0", "after the colon"),
        ("v5e:four", "after the colon"),
    ],
)
def test_what_is_no_topology(topology, message):
    with pytest.raises(ConfigError, match=message):
        topologies.describe(topology)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install libtpu"):
        topologies.describe("v5e:1")
    with pytest.raises(ConfigError, match=r"pip install 'jax\[cuda13\]'"):
        topologies.describe("a100:1")


def test_needed_memory_is_read_from_the_compilers_refusal():
    text = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory. Used 22.5G of 15.75G hbm."
    assert topologies.needed_bytes(text) == int(22.5 * 2**30)
    assert topologies.needed_bytes("RESOURCE_EXHAUSTED: no numbers") is None


@pytest.mark.parametrize(
    "kind, speeds",
    [
        ("NVIDIA H200", (989e12, 4800e9, 450e9)),
        ("TPU v5 lite", (197e12, 819e9, 200e9)),
        ("TPU v5", (459e12, 2765e9, 600e9)),
        ("cpu", (0, 0, 0)),
    ],
)
def test_the_speeds_of_a_known_chip_are_known_where_it_is_at_hand(monkeypatch, kind, speeds):
    device = types.SimpleNamespace(device_kind=kind, platform="gpu", memory_stats=lambda: {"bytes_limit": 5})
    monkeypatch.setattr(jax, "devices", lambda: [device])
    chips = topologies.at_hand()
    assert (chips.name, chips.memory) == (kind, 5)
    assert (chips.peak_flops, chips.bandwidth, chips.network) == speeds


def test_a_jax_without_the_private_function_says_what_to_do(monkeypatch):
    monkeypatch.delattr("jax._src.xla_bridge.canonicalize_platform")
    with pytest.raises(ConfigError, match=r"jax [\d.]+ no longer has: pip install -r requirements.txt"):
        topologies._lowering_for_cuda().__enter__()
