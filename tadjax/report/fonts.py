"""Names in pictures: as they are, `$` and `_` too, and in a font that has their letters, if this machine has one."""

import functools
import sys
import unicodedata
from collections.abc import Iterable

import matplotlib
from matplotlib import font_manager

NO_SIGNS = ("Cc", "Cs")  # control characters and halves of letters: SVG is not allowed to hold them
HINT = "install one, such as Noto (Debian, Ubuntu: fonts-noto-cjk, fonts-noto-core); the SVG beside needs none"
_told: set[str] = set()  # letters that were said to be missing


def plain(text: str) -> str:
    """A text on one line, with a mark in place of what is no letter."""
    odd = {letter for letter in text if unicodedata.category(letter) in NO_SIGNS and not letter.isspace()}
    odd |= {letter for letter in text if ord(letter) & 0xFFFE == 0xFFFE}
    return " ".join("".join("\ufffd" if letter in odd else letter for letter in text).split())


def look_of(texts: Iterable[str]) -> dict[str, object]:
    """matplotlib's settings for pictures with these names: no mathematics, no TeX, fonts that have their letters.

    Letters that no font has are boxes in a PNG or PDF, which is said once.
    """
    letters = frozenset("".join(map(plain, texts)))
    families, lacking = _families(letters)
    if lacking - _told:
        _told.update(lacking)
        shown = "".join(sorted(lacking)[:20])
        print(f"pictures show boxes for {shown}: no font on this machine has these letters; {HINT}", file=sys.stderr)
    look: dict[str, object] = {"text.usetex": False, "text.parse_math": False, "svg.fonttype": "none"}
    return look | ({"font.family": [*matplotlib.rcParams["font.family"], *families]} if families else {})


@functools.lru_cache(maxsize=64)
def _families(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of fonts here that have the letters which matplotlib's own lacks, and the letters that none has."""
    lacking = letters - _letters_of(font_manager.findfont(font_manager.FontProperties()), letters)
    lacking = frozenset(letter for letter in lacking if letter not in " \ufffd" and not letter.isspace())
    families = []
    if lacking:
        # not matplotlib's list of fonts: it is as old as matplotlib's cache
        paths = {*font_manager.findSystemFonts(), *(entry.fname for entry in font_manager.fontManager.ttflist)}
        having = {path: _letters_of(path, lacking) for path in paths if "lastresort" not in path.lower()}
        while any(found & lacking for found in having.values()):
            best = min(having, key=lambda path: (-len(having[path] & lacking), _unusual(path), path))
            if all(entry.fname != best for entry in font_manager.fontManager.ttflist):
                font_manager.fontManager.addfont(best)
            families.append(font_manager.get_font(best).family_name)
            lacking -= having[best]
    return tuple(dict.fromkeys(families)), lacking


def _unusual(path: str) -> bool:
    return any(
        word in path.lower() for word in ("bold", "italic", "oblique", "black", "light", "thin", "mono", "serif")
    )


def _letters_of(path: str, letters: Iterable[str]) -> frozenset[str]:
    """Those of the letters that a font has; none of a file that is no font."""
    try:
        font = font_manager.get_font(path)
        return frozenset(letter for letter in letters if font.get_char_index(ord(letter)))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
