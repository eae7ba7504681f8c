"""The package as others install it: everything is inside, and one command does it all from an empty folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib

import pytest

from tests.conftest import ROOT, make_small_config
from tests.training.test_loop import command as training_command

PARTS = ("tadjax", "configs", "convert", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")


def run(*command, cwd: pathlib.Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, **options)


def test_every_folder_of_code_is_packed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "tadjax").rglob("*.py")}
    assert sorted(packages) == sorted(folders | {"tadjax.configs", "tadjax.convert"})


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """bin/ of a new environment that holds the built wheel, and finds everything else where these tests do."""
    pytest.importorskip("setuptools", reason="no setuptools to build a wheel with")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (source / part).parent.mkdir(exist_ok=True)
        copy(ROOT / part, source / part)
    wheels = folder / "wheels"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    built = run(*pip, "wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, cwd=folder)
    assert built.returncode == 0, built.stderr
    environment = folder / "environment"
    assert run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder).returncode == 0
    python = environment / "bin" / "python"
    (wheel,) = wheels.iterdir()
    added = run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    assert added.returncode == 0, added.stderr
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    (pathlib.Path(where) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def test_one_command_says_what_there_is(installed, tmp_path):
    shown = run(installed / "tadjax", "--help", cwd=tmp_path)
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) < 24
    for wrong, sentence in ((["trian"], "did you mean 'train'?"), ([], "a command is missing")):
        refused = run(installed / "tadjax", *wrong, cwd=tmp_path)
        assert refused.returncode == 2 and sentence in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train"], "error: --workdir is missing"),
        (["train", "--config=thumos_vitg_los", "--workdir=x"], "did you mean thumos_vitg_losa?"),
        (["predict", "--workdir=x", "--top-k=many"], "error: flag --top_k=many: invalid literal"),
        (["prepare"], "error: the following arguments are required: NAME; tadjax prepare --help says more"),
        (["convert"], "error: give --input and --output, or --list FILE; tadjax convert --help says more"),
    ],
)
def test_what_is_wrong_is_one_sentence(installed, tmp_path, arguments, sentence):
    refused = run(installed / "tadjax", *arguments, cwd=tmp_path)
    assert refused.returncode == 2 and sentence in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr


def test_it_trains_evaluates_and_loads_from_an_empty_folder(installed, small_data, tmp_path):
    """Nothing of the checkout is on the way: recipes and page are the package's own."""
    config = make_small_config(small_data)
    config.optim.epochs = config.train.eval_every_epochs = 1
    config.train.eval_from_epoch = 0
    flags = [flag for flag in training_command(config, tmp_path / "run") if flag.startswith("--config.")]
    trained = run(
        installed / "tadjax", "train", *flags, "--config=configs/thumos_vitg.py:tiny", "--workdir=run", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    video = next((small_data / "videos").iterdir())
    code = f"import tadjax; print(len(tadjax.load('run').predict({str(video)!r}))); print(tadjax.__file__)"
    loaded = run(installed / "python", "-c", code, cwd=tmp_path, env=os.environ)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert str(installed.parent) in loaded.stdout.splitlines()[1]
