"""What stands in the pages: commands, blocks of Python, and names of files, functions and fields."""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator

from tests.conftest import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
# The first words of commands; whatever else is indented by four is an example of data, and begins as DATA says.
PROGRAMS = ("python", "tadjax", "make", "pip", "pytest", "sbatch", "kubectl", "huggingface-cli", "launch/tpu_vm.sh")
DATA = r'\{"database"|  "annotations"|config\.mesh\.|tadjax/|launch/ |convert/ | {20,}|#'
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a page: its words, without comment and variables of the environment; line counts from 1."""

    page: pathlib.Path
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line} {shlex.join(self.words)}"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of Python; line is that of its first line of code.

    alone: it must run without JAX. slow: it takes more than seconds.
    """

    page: pathlib.Path
    line: int
    code: str
    alone: bool
    slow: bool


def indented(text: str) -> Iterator[tuple[int, str]]:
    """(line, content) of what is indented by four or more outside of fenced blocks; lines that end in \\ are joined."""
    fenced, lines = False, iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if line.startswith("```"):
            fenced = not fenced
        if fenced or not re.match(r" {4}", line):
            continue
        content = line[4:]
        while content.endswith("\\"):
            content = content[:-1] + next(lines)[1].strip()
        yield number, content


def words_of(line: str) -> tuple[str, ...]:
    """A command line's words, or () where it is none."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return ()
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    return tuple(words) if words and words[0] in PROGRAMS else ()


def commands(page: pathlib.Path) -> list[Command]:
    """The commands of a page: those in indented blocks, and those in the running text between backticks."""
    text = page.read_text()
    found = [Command(page, line, words_of(content)) for line, content in indented(text)]
    prose = re.sub(r"(?ms)^```.*?^```|^ {4}.*?$", lambda m: "\n" * m[0].count("\n"), text)
    for span in re.finditer(r"`([^`]+)`", prose):
        words = words_of(" ".join(span[1].split()))
        if len(words) > 1:
            found.append(Command(page, prose[: span.start()].count("\n") + 1, words))
    return [command for command in found if command.words]


def blocks(page: pathlib.Path) -> list[Block]:
    """The blocks of Python of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text[: m.start(2)].count("\n") + 1, m[2], "nojax" in m[1], "slow" in m[1])
        for m in re.finditer(r"(?ms)^```python(.*?)\n(.*?)^```$", text)
    ]


def spans(page: pathlib.Path) -> list[tuple[int, str]]:
    """(line, text) of everything between backticks outside of fenced blocks."""
    text = re.sub(r"(?ms)^```.*?^```", lambda m: "\n" * m[0].count("\n"), page.read_text())
    return [(text[: m.start()].count("\n") + 1, " ".join(m[1].split())) for m in re.finditer(r"`([^`]+)`", text)]


def links(page: pathlib.Path) -> list[tuple[int, str]]:
    """(line, target) of links, pictures and sources that are no addresses of the web."""
    text = page.read_text()
    found = re.finditer(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    targets = [(text[: m.start()].count("\n") + 1, m[1] or m[2]) for m in found]
    return [(line, target) for line, target in targets if not target.startswith(("http://", "https://"))]
