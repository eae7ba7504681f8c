"""The pages say nothing that is not so: commands, flags, fields, files, functions and links are there."""

import ast
import functools
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tadjax.__main__ import COMMANDS
from tadjax.config.schema import FIELDS
from tests.conftest import ROOT
from tests.docs.pages import DATA, PAGES, Command, commands, indented, links, spans, words_of

LAUNCHED = ("launch/local.py", "launch/slurm.sh")  # what follows goes to tadjax.main
# Folders of users' own files: what lies there, or is named so, need not be in the repository.
USERS = (
    r"(data|weights|runs|predictions|my|WORKDIR|RUN|ROOT|OUTPUT|camA|damaged|pretrained|warmup|encoder|features|head)/"
)
SUFFIXES = (".py", ".md", ".ipynb", ".sh", ".yaml", ".npz", ".txt", ".toml", ".cff", ".png", ".svg")
# Files that programs write or users have, and files of others, that pages name.
OTHERS = {
    "category_idx.txt", "classes.txt", "blocked.txt", "errors.png", "timeline.png", "gestures.txt", "proposals.svg",
    "tools/test.py", "flax_base_f16r288_repeated.npz", "flax_large_f8r288_repeated.npz",
}  # fmt: skip


def short(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_whatever_is_indented_is_a_command_or_an_example_of_data(page):
    """So that no command escapes the tests of this folder."""
    for line, content in indented(page.read_text()):
        assert words_of(content) or re.match(DATA, content) or not content.strip(), f"{page}:{line}: {content}"


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_lines_are_not_too_long(page):
    if page.name == "config.md":
        pytest.skip("it is made by a program")
    for number, line in enumerate(page.read_text().splitlines(), 1):
        assert len(line) <= 120 or line.startswith(("|", "[!", "!", "  <img")), f"{page}:{number}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_links_lead_somewhere(page):
    for line, target in links(page):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page}:{line}: {target}"
        if anchor:
            titles = re.findall(r"(?m)^#+ (.*)$", there.read_text())
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@functools.cache
def names_of(path: pathlib.Path) -> frozenset[str]:
    """What a module defines, methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_files_and_functions_exist(page):
    for line, span in spans(page):
        name, colon, symbol = span.partition(":")
        if words_of(span) or not name.endswith((*SUFFIXES, "/")) or re.search(r"[ *=]", name):
            continue
        if re.match(USERS, name) or name in OTHERS or name.startswith("..."):
            continue
        path = ROOT / name
        named = (
            path.exists() or any(ROOT.glob(f"tadjax/**/{name}")) or (ROOT / "configs" / name).exists() or "NAME" in name
        )
        assert named, f"{page}:{line}: `{span}`: no such file"
        if colon and name.startswith("tadjax/"):
            assert symbol in names_of(path), f"{page}:{line}: `{span}`: {name} does not define {symbol}"


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_fields_exist(page):
    """Fields of configs that the text names: `config.optim.min_lr`, `--config.optim.head_lr=2e-4`, or a section."""
    sections = {name[: m.start()] for name in FIELDS for m in re.finditer(r"\.", name)}
    for line, span in spans(page):
        for name in re.findall(r"(?:^|--|[ (])config\.([a-z_.0-9]*[a-z_0-9])", span):
            if f"config.{name}" not in ("config.py", "config.json", "config.md"):
                assert name in {*FIELDS, *sections}, f"{page}:{line}: config.{name} is no field"


def modules(command: Command) -> list[list[str]]:
    """The command as words for Python, as dry_run takes them; none where it runs no program of this project."""
    words = list(command.words)
    for launcher in LAUNCHED:
        if launcher in words:
            text = (ROOT / launcher).read_text()
            rest = words[words.index(launcher) + 1 :]
            own = [word for word in rest if f'"{word.partition("=")[0]}"' in text]
            return [["-m", "tadjax.main", *(word for word in rest if word not in own)]]
    if words[0] == "launch/tpu_vm.sh":
        return [["-m", "tadjax.main", *words[2:]]] if words[2:] else []
    if words[0] == "tadjax":
        words = ["python", "-m", "tadjax", *words[1:]]
    arguments = words[3:] if words[1] == "-m" else words[2:]
    if words[1:3] == ["-m", "tadjax"] and arguments[:1] and arguments[0] in COMMANDS:
        arguments = arguments[1:]
    if not arguments or arguments[0].isupper():
        return []  # a program's name alone, or with COMMAND in the arguments' place
    runs_at_once = words[1:3] == ["-m", "tests.golden"]  # it parses nothing; its files are looked up below
    return [words[1:]] if words[0] == "python" and not runs_at_once else []


def filled_in(words: list[str]) -> list[str]:
    """Without the dots that stand for what is told above, and with a recipe where a page says --config=..."""
    words = [word.replace("--config=...", "--config=configs/thumos_vitg.py") for word in words if word != "..."]
    return [re.sub(r"=\.\.\.$", "=x", word) for word in words]


@pytest.fixture(scope="module")
def playground(tmp_path_factory) -> pathlib.Path:
    """A checkout, with the config that `tadjax prepare custom` would have written."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("data", "runs", "weights"):
            (folder / path.name).symlink_to(path)
    (folder / "data/mine").mkdir(parents=True)
    (folder / "data/mine/config.py").write_text((ROOT / "configs/thumos_vits.py").read_text())
    return folder


def refusals(commands: list[Command], folder: pathlib.Path) -> dict[str, str]:
    """{command: what its program says of the arguments}, of those whose programs refuse them."""
    of_python = [(command, filled_in(words)) for command in commands for words in modules(command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-m", "tests.docs.dry_run"],
        input=json.dumps([words for _, words in of_python]),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    said = zip(of_python, json.loads(found.stdout), strict=True)
    return {str(command): text for (command, _), text in said if text}


def test_programs_take_the_arguments_of_commands(playground):
    every = [command for page in PAGES for command in commands(page)]
    assert len(every) > 60 and refusals(every, playground) == {}


WRONG = [
    ("python -m tadjax.main --config=configs/thumos_vitg.py --workdr=x", "workdr"),
    ("python -m tadjax.main --config=configs/thumos_vitg.py --workdir=x --config.optim.lr=1", "no such field"),
    ("python -m tadjax.main --config=configs/thumos_vitg.py --workdir=x --config.window.frames=7", "multiple"),
    ("python -m tadjax.main --config=configs/thumos_vitx.py --workdir=x", "thumos_vitx"),
    ("python -m tadjax.main --config=configs/thumos.py:vitx --workdir=x", "vitx"),
    ("python -m tadjax.main --config=configs/thumos_vitg.py", "--workdir is missing"),
    ("python -m tadjax.mane --workdir=x", "mane"),
    ("tadjax trian --workdir=x", "did you mean 'train'?"),
    ("tadjax predict --workdir=x --top=3", "top"),
    ("tadjax doctor --config=thumos_vitg --memry", "memry"),
    ("python -m tadjax.prepare thumoss", "thumoss"),
    ("python -m tadjax.prepare thumos --re-encode x", "re_encode"),
    ("python -m tadjax.metrics results.json annotations.json --diagnoses", "diagnoses"),
    ("python -m tadjax.report results.json --video=NAME", "required"),
    ("python convert/torch_to_flax.py --in x", "--input"),
    ("python convert/torch_to_flax.py --input x --output y --config configs/none.py", "none.py"),
    ("python convert/torch_to_flax.py --input x --output y --config configs/thumos.py --config.head.nam=x", "nam"),
    ("python launch/local.py --processes=2 --config=configs/demo.py --workdir=x --proces=2", "proces"),
    ("launch/tpu_vm.sh start --config=configs/none.py --workdir=x", "none.py"),
    ("python -m tests.faults --roundz=2", "roundz"),
    ("python -m tadjax.demo --lofy", "lofy"),
]


def test_wrong_commands_are_found(playground):
    given = [Command(ROOT / "README.md", number, words_of(line)) for number, (line, _) in enumerate(WRONG)]
    said = refusals(given, playground)
    for command, (line, sentence) in zip(given, WRONG, strict=True):
        assert sentence in said.get(str(command), "nothing"), line


def test_every_command_of_the_program_stands_on_a_page():
    shown = {command.words[1] for page in PAGES for command in commands(page) if command.words[0] == "tadjax"}
    modules = {
        command.words[2] for page in PAGES for command in commands(page) if command.words[:2] == ("python", "-m")
    }
    for name, (module, *flags) in COMMANDS.items():
        assert name in shown or (module in modules and not flags), f"tadjax {name} stands on no page"


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_what_other_programs_take_exists(page):
    """Targets of make, files of pip, pytest and kubectl, scripts, extras and modules."""
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    for command in commands(page):
        program, *rest = command.words
        if program == "make":
            assert set(rest) <= set(targets), command
        if program in ("pip", "pytest", "kubectl", "sbatch"):
            files = [word for word in rest if word.endswith((".txt", ".py", ".yaml", ".sh")) and "=" not in word]
            assert all((ROOT / name).exists() for name in files), command
        if program == "launch/tpu_vm.sh":
            assert re.search(rf"(?m)^[a-z |]*\b{rest[0]}\b[a-z |]*\)", (ROOT / program).read_text()), command
        if command.words[:2] == ("python", "-m"):
            assert importlib.util.find_spec(command.words[2]), command
        for name in [word for word in rest if word.startswith("tests/")]:
            assert (ROOT / name).exists(), command


def test_shell_scripts_are_named_as_they_lie():
    for page in PAGES:
        for command in commands(page):
            for word in command.words:
                if word.startswith("launch/"):
                    assert (ROOT / word).exists(), shlex.join(command.words)
