"""A headless Chromium driven through a pipe, by the DevTools protocol; no driver is needed."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--remote-debugging-pipe"),
)
PATIENCE = 30  # s
VIRTUAL = {"ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8}


class Tab:
    """One page: what it shows, what is typed into it."""

    def __init__(self, to: Any, back: Any) -> None:
        self.to, self.back = to, back
        self.sent = 0
        self.requests: list[str] = []  # addresses that the page asked for
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.call("Network.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Send one command and return what it answers."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while True:
            answer = self._read()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self.sent:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> Any:
        text = bytearray()
        while not text.endswith(b"\0"):
            letter = self.back.read(1)
            assert letter, "the browser has gone"
            text += letter
        return json.loads(text[:-1])

    def open(self, path: Path) -> None:
        """Open a file and wait until it is read."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait(f"location.href == {path.as_uri()!r} && document.readyState == 'complete'")

    def value(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        self.until(lambda: self.value(expression), f"{expression} never came true")

    def until(self, there: Callable[[], bool], complaint: str) -> None:
        """Wait until something has happened."""
        ends = time.monotonic() + PATIENCE
        while not there():
            assert time.monotonic() < ends, complaint
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = VIRTUAL.get(key, ord(key[0].upper()))
        typed = {"text": key} if len(key) == 1 else {}
        for kind, more in (("keyDown", typed), ("keyUp", {})):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more
            )


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """Start a browser whose profile and downloads lie in a folder; end it afterwards."""
    assert CHROMIUM is not None
    read, to = os.pipe()
    back, write = os.pipe()
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    # The browser reads commands from descriptor 3 and answers on 4.
    script = f'exec "$@" 3<&{read} 4>&{write}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *words],
        pass_fds=(read, write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read)
    os.close(write)
    try:
        with os.fdopen(to, "wb") as sending, os.fdopen(back, "rb") as receiving:
            yield Tab(sending, receiving)
    finally:
        process.kill()
        process.wait(PATIENCE)
