"""The command's former name: `python -m tadjax.prepare.builders` is its name now."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tadjax.prepare.builders", run_name="__main__")
