import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from configs import thumos_vitg
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.errors import ConfigError
from tadjax.parallel import mesh as meshes
from tadjax.parallel.shard import check_window, spread
from tadjax.training.optimizer import make_optimizer
from tadjax.training.state import create


def abstract(data: int, clip: int, fsdp: int) -> jax.sharding.AbstractMesh:
    return jax.sharding.AbstractMesh((data, clip, fsdp), meshes.AXES, axis_types=(AxisType.Auto,) * 3)


def state_shapes(config):
    localizer = build(config, 3)
    params = jax.eval_shape(localizer.init, jax.random.key(0))
    trained = configs.trained_collections(config)
    return jax.eval_shape(
        lambda p: create(p, trained, localizer, make_optimizer(config.optim, 10), config.optim.ema_decay), params
    )


@pytest.mark.parametrize("method", ["none", "full_tia", "side", "losa", "unipt"])
def test_every_leaf_of_a_state_is_covered(method):
    config = thumos_vitg.get_config("tiny")
    config.adaptation.method = method
    found = dict(jax.tree_util.tree_flatten_with_path(meshes.specs(state_shapes(config)))[0])
    sharded = {"/".join(meshes._name(path).split("/")[-3:]) for path, spec in found.items() if "fsdp" in spec}
    assert sharded == {"attention/qkv/kernel", "attention/proj/kernel", "mlp/fc1/kernel", "mlp/fc2/kernel"}


def test_the_average_and_the_optimizer_are_sharded_like_their_parameters():
    config = thumos_vitg.get_config("tiny")
    config.adaptation.method = "full"
    specs = meshes.specs(state_shapes(config))
    ends = {}
    for path, spec in jax.tree_util.tree_flatten_with_path(specs)[0]:
        name = meshes._name(path)
        if name.endswith("backbone/blocks/mlp/fc1/kernel"):
            ends[name.split("/")[0]] = spec
    assert ends == dict.fromkeys(("trained", "ema", "optimizer"), P(None, None, "fsdp"))


def test_what_no_rule_covers_is_named():
    with pytest.raises(ValueError, match="covers neck/kernel"):
        meshes.specs({"neck": {"kernel": jnp.zeros((2, 2))}})


def test_weights_that_do_not_split_evenly_are_named_with_what_would_do():
    tree = {"backbone": {"blocks": {"mlp": {"fc1": {"kernel": jnp.zeros((2, 3, 12))}}}}}
    with pytest.raises(
        ConfigError, match=r"mesh\.fsdp = 5: backbone/blocks/mlp/fc1/kernel has 12 .* 1, 2, 3, 4, 6 would"
    ):
        meshes.shardings(tree, abstract(1, 1, 5))


def test_sizes_are_checked_against_the_devices():
    devices = list(np.arange(8))

    def shape(*sizes):
        mesh = meshes.make_mesh(ConfigDict(dict(zip(meshes.AXES, sizes, strict=True))), devices)
        return tuple(mesh.shape.values())

    assert shape(-1, 4, 1) == (2, 4, 1)
    assert shape(1, -1, 2) == (1, 4, 2)
    assert shape(2, 2, 2) == (2, 2, 2)
    with pytest.raises(ConfigError, match="8 devices are no multiple of 3"):
        shape(-1, 3, 1)
    with pytest.raises(ConfigError, match="that is 4 devices, but there are 8"):
        shape(4, 1, 1)


def test_batches_that_do_not_split_evenly():
    config = thumos_vitg.get_config("tiny")
    config.optim.batch_size, config.optim.accumulate = 8, 2
    meshes.check_batch(config.optim, abstract(2, 2, 2))
    with pytest.raises(ConfigError, match=r"batch_size = 8 with .*accumulate = 2 .*fsdp = 8 parts .* multiple of 16"):
        meshes.check_batch(config.optim, abstract(4, 1, 2))


def window(config, clip: int) -> None:
    localizer = build(config, 3)
    params = jax.eval_shape(localizer.backbone.init, jax.random.key(0))
    frames = jax.ShapeDtypeStruct((1, config.window.frames, 32, 32, 3), jnp.uint8)
    check_window(localizer, params, frames, clip)


def test_clips_that_cannot_be_shared_out_evenly():
    config = thumos_vitg.get_config("tiny")
    config.window.frames = 16 * 12
    window(config, 4)
    with pytest.raises(ConfigError, match=r"clip = 8: the 12 clips .* 1, 2, 3, 4, 6, 12 would do"):
        window(config, 8)
    config.memory.clips_per_group = 2
    with pytest.raises(
        ConfigError, match=r"clips_per_group = 2: with config.mesh.clip = 4 a device has 3 clips.* 1, 3"
    ):
        window(config, 4)
    config.memory.clips_per_group = 0
    config.adaptation.method = "longlora"
    window(config, 3)
    with pytest.raises(ConfigError, match=r"group_steps = 16: with config.mesh.clip = 4 a device has 24 steps"):
        window(config, 4)


def test_a_single_device_runs_the_plain_localizer():
    localizer = build(thumos_vitg.get_config("tiny"), 3)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), meshes.AXES)
    assert spread(localizer, mesh) is localizer
