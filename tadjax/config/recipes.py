"""Where the recipes are: configs/ of this checkout, or of the installed package."""

import importlib
import pathlib
import sys
from types import ModuleType

import tadjax


def folder(name: str = "configs") -> pathlib.Path:
    """configs/ or convert/: inside the installed package, beside it in a checkout."""
    package = pathlib.Path(tadjax.__file__).parent
    return package / name if (package / name).exists() else package.parent / name


def locate(config: str) -> str:
    """FILE or FILE:WORDS as given if that file exists, else the recipe of that name: thumos_vitg, configs/epic.py."""
    given, colon, words = config.partition(":")
    path = pathlib.Path(given)
    recipe = folder() / path.with_suffix(".py").name
    if given and not path.exists() and str(path.parent) in (".", "configs") and recipe.exists():
        return f"{recipe}{colon}{words}"
    return config


def names() -> list[str]:
    """Of all recipes."""
    return sorted(path.stem for path in folder().glob("*.py") if path.stem != "common")


def make_importable(name: str = "configs") -> None:
    """Makes `from configs import common` find the recipes, wherever the program was started; `convert` likewise."""
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder(name))]
        sys.modules[name] = package


def shipped(name: str) -> ModuleType:
    """The recipe configs/NAME.py as a module."""
    make_importable()
    return importlib.import_module(f"configs.{name}")
