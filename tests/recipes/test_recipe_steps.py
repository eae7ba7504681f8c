"""The training step of every published setting at full size, in shapes: augmentation, gradients, optimizer."""

import jax
import pytest

from tadjax.parallel import mesh as meshes
from tadjax.profiling.profile import training_step
from tests.config.test_checks import load
from tests.conftest import ROOT
from tests.recipes import test_feature_recipes, test_other_recipes, test_recipes

SETTINGS = [
    *map(test_recipes.variant_of, test_recipes.RECIPES),
    *test_other_recipes.VARIANTS.values(),
    *test_feature_recipes.SHIPPED.values(),
]
QUICK = (("thumos", "vitg"), ("epic_slowfast", "noun,tridet"))  # tracing one takes up to ten seconds


@pytest.mark.parametrize(
    ("file", "variant"),
    [pytest.param(*setting, marks=[] if setting in QUICK else [pytest.mark.slow]) for setting in SETTINGS],
)
def test_a_step_turns_a_state_into_one_like_it(file, variant):
    config = load(ROOT / "configs" / f"{file}.py", variant)
    step = training_step(config, meshes.make_mesh(config.mesh, jax.devices()[:1]), "cpu")
    state, metrics = jax.eval_shape(step.function, step.state, step.batch)
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (step.state, state))
    assert described[0] == described[1]
    assert {"loss", "grad_norm", "skipped"} <= set(metrics)
    assert metrics["loss"].shape == ()
