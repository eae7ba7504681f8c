"""A headless Chromium driven by chromedriver (W3C WebDriver over HTTP), with the standard library alone."""

import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1280,1000",
)
KEYS = {"ArrowLeft": "\ue012", "ArrowRight": "\ue014", "Home": "\ue011", "End": "\ue010"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which WebDriver names an element


def missing() -> str | None:
    """What is not installed, or None."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    absent = [
        name for name, path in (("chromium", chromium), ("chromedriver", shutil.which("chromedriver"))) if not path
    ]
    return f"{' and '.join(absent)} not installed (apt-get install chromium chromium-driver)" if absent else None


class Browser:
    """A context manager; `profile` is an empty folder for what the browser stores."""

    def __init__(self, profile: pathlib.Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self._address = f"http://127.0.0.1:{port}"
        binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": binary}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self.wait(lambda: self._ready(), "chromedriver to start")
            found = self._send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        except BaseException:
            self._driver.kill()
            raise
        self._address += f"/session/{found['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._send("DELETE", "")
        finally:
            self._driver.kill()
            self._driver.wait()

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> object:
        """What the JavaScript returns."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """As a person would: it fails where something else lies on top."""
        element = self._send("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]
        self._send("POST", f"/element/{element}/click", {})

    def press(self, *keys: str) -> None:
        events = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": events}]})

    def problems(self) -> list[str]:
        """Errors on the console since the last call."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def wait(self, holds, what: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return self._send("GET", "/status")["ready"]
        except (urllib.error.URLError, ConnectionError):
            return False

    def _send(self, method: str, path: str, content: dict | None = None):
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._address + path, body, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()[:500]}") from None
