import importlib.util

import pytest

from tadjax import topologies
from tadjax.errors import ConfigError


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
