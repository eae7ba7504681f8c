import os
import subprocess
import sys

ENVIRONMENT = dict(os.environ)  # the user's; tests.conftest, once imported, changes it to suit the tests


def run(*arguments: str, statuses: tuple[int, ...] = (0,), **environment: str) -> str:
    """What Python, given these arguments in the user's environment, prints. RuntimeError, saying why, if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**ENVIRONMENT, **environment}, check=False
    )
    if done.returncode not in statuses or "Traceback" in done.stderr:
        raise RuntimeError(f"{' '.join(arguments)}\n{done.stderr}")
    return done.stdout
