"""The examples of the pages run as they stand, and the notebook too."""

import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from tadjax.backbones import BACKBONES
from tadjax.build import build
from tadjax.config.checks import check
from tadjax.heads import HEADS
from tadjax.parallel import mesh as meshes
from tadjax.prepare import __main__ as prepare
from tadjax.prepare.publishers import CONVERTERS
from tadjax.training.loop import initial_state
from tadjax.training.optimizer import make_optimizer
from tadjax.workdir.checkpoint import Checkpoints
from tadjax.workdir.run import check_workdir, write_classes
from tests.conftest import CLASSES, ROOT, make_small_config
from tests.docs.pages import blocks

API, CONTRIBUTING, README = (ROOT / name for name in ("docs/api.md", "CONTRIBUTING.md", "README.md"))
TABLES = (BACKBONES, HEADS, CONVERTERS, prepare.DATASETS)  # that CONTRIBUTING.md adds to


@pytest.fixture(scope="module")
def desk(tmp_path_factory, small_data) -> pathlib.Path:
    """A folder with what the examples name: runs/vitg (a run before its first step), match.mp4, data/mine."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "match.mp4").symlink_to(small_data / "videos" / "video6.mp4")
    (folder / "data").mkdir()
    (folder / "data/mine").symlink_to(small_data)
    config, workdir = make_small_config(small_data), folder / "runs/vitg"
    check(config)
    check_workdir(config, workdir)
    write_classes(workdir, CLASSES)
    checkpoints, optimizer = Checkpoints(workdir), make_optimizer(config.optim, 3)
    mesh, localizer = meshes.make_mesh(config.mesh), build(config, len(CLASSES))
    checkpoints.save(initial_state(config, localizer, optimizer, mesh, workdir, checkpoints))
    checkpoints.close()
    return folder


@pytest.fixture
def at_the_desk(desk, tmp_path, monkeypatch) -> pathlib.Path:
    """A folder of its own for each page; what examples add to the project's tables is taken off again."""
    for name in ("match.mp4", "runs/vitg", "data/mine"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(desk / name)
    monkeypatch.chdir(tmp_path)
    before = [dict(table) for table in TABLES]
    yield tmp_path
    for table, kept in zip(TABLES, before, strict=True):
        table.clear()
        table.update(kept)


def run(page: pathlib.Path, monkeypatch, slow: bool = False) -> None:
    """Runs the blocks of a page one after the other, in one module; lines in errors are those of the page."""
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # where Flax looks the annotations of fields up
    for block in blocks(page):
        if block.slow and not slow:
            continue
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", [API, CONTRIBUTING, README], ids=lambda page: page.stem)
def test_examples_run(page, at_the_desk, monkeypatch):
    assert blocks(page)
    run(page, monkeypatch)


@pytest.mark.slow
def test_long_examples_run_too(at_the_desk, monkeypatch):
    assert any(block.slow for block in blocks(API))
    run(API, monkeypatch, slow=True)


def test_metrics_and_detections_need_no_jax(tmp_path):
    alone = [block for block in blocks(API) if block.alone]
    assert len(alone) == 3
    code = (
        "\n".join(block.code for block in alone) + "\nimport sys\nassert 'jax' not in sys.modules, 'JAX is imported'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its cells in order, in a folder of their own; the last one draws."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs/quickstart.ipynb").read_text())
    module = types.ModuleType("notebook")
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are not committed"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "docs/quickstart.ipynb", "exec"), module.__dict__)
    assert (tmp_path / "quickstart/timeline.png").stat().st_size > 10_000
    assert len(module.__dict__["found"]) > 0
