"""Firefox, WebKitGTK and Chromium as Debian has them, by the commands of WebDriver; no driver is fetched.

WebKit has its driver beside it, which takes them by HTTP. Firefox itself takes them too, by the names that its driver
would use (Marionette), so that driver is not needed. Chromium has words of its own (DevTools); it is driven so where it
is to be measured, since Playwright watches each request, which costs as much as a small one itself.
"""

import base64
import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tests.support.programs import require_program

_START_SECONDS = 60
_WAIT_SECONDS = 60
ENTER = "\ue007"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key that names an element, by the standard."""
_PREFERENCES = {
    "marionette.port": 0,
    "intl.accept_languages": "en-GB",
    "browser.download.folderList": 2,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.normandy.enabled": False,
    "services.settings.server": "http://127.0.0.1:9/",
}
_LISTEN = """
window.complaints = [];
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  addEventListener(kind, (event) =>
    complaints.push([kind, event.message, event.reason, event.violatedDirective, event.blockedURI].join(" ")));
for (const kind of ["error", "warn"]) console[kind] = (...words) => complaints.push(kind + " " + words.join(" "));
"""


class Commands(Protocol):
    """Carries commands to a browser, by their names in the standard's own drivers."""

    def send(self, name: str, **values: object) -> Any:  # noqa: ANN401 - as JSON has it
        """Send one and return its value."""
        ...


class Driver:
    """One browser with one page. What the page shows is found by CSS."""

    def __init__(self, commands: Commands, downloads: Path) -> None:
        """Drive a browser that has a session; its downloads come to a folder."""
        self._commands = commands
        self.downloads = downloads

    def open(self, url: str) -> None:
        """Go to an address; from then on what the page has to complain of is kept."""
        self._commands.send("Navigate", url=url)
        self.run(_LISTEN)

    def run(self, script: str) -> Any:  # noqa: ANN401 - as the script returns it
        """Run a script, the body of a function, and return what it returns."""
        return self._commands.send("ExecuteScript", script=script, args=[])

    @property
    def complaints(self) -> list[str]:
        """What the page reported since it was opened."""
        found: list[str] = self.run("return complaints")
        return found

    def wait_for(self, css: str, *, seconds: float = _WAIT_SECONDS) -> None:
        """Wait until there is such an element."""
        deadline = time.monotonic() + seconds
        while not self.run(f"return document.querySelector({json.dumps(css)}) !== null"):
            if time.monotonic() > deadline:
                message = f"no {css} within {seconds} s; the page says:\n{self.run('return document.body.outerHTML')}"
                raise AssertionError(message)
            time.sleep(0.1)

    def click(self, css: str) -> None:
        """Click as a mouse does."""
        self.wait_for(css)
        self._commands.send("ElementClick", id=self._find(css))

    def type(self, css: str, text: str) -> None:
        """Type into a field; into one for files their paths, one a line."""
        self.wait_for(css)
        self._commands.send("ElementSendKeys", id=self._find(css), text=text)

    def _find(self, css: str) -> str:
        element: str = self._commands.send("FindElement", using="css selector", value=css)[_ELEMENT]
        return element

    def picture(self, path: Path) -> None:
        """Keep a picture of what is to be seen, once nothing moves any more."""
        self.run(
            "return Promise.allSettled(document.getAnimations().map((each) => each.finished)).then(() =>"
            " new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null)))))"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._commands.send("TakeScreenshot", full=False)))


class _Marionette:
    """Firefox's own end: `length:[0, number, name, values]` over TCP, answered by `[1, number, error, value]`."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._answers = self._socket.makefile("rb")
        self._numbers = itertools.count(1)
        self._read()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def _read(self) -> Any:  # noqa: ANN401 - as JSON has it
        digits = b"".join(iter(lambda: self._answers.read(1), b":"))
        return json.loads(self._answers.read(int(digits)))

    def send(self, name: str, **values: object) -> Any:  # noqa: ANN401 - as JSON has it
        message = json.dumps([0, next(self._numbers), f"WebDriver:{name}", values]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, value = self._read()
        assert error is None, error
        return value["value"] if isinstance(value, dict) and value.keys() == {"value"} else value


class _Http:
    """A driver's end: each command is a request below its session."""

    _ROUTES: ClassVar = {
        "NewSession": ("POST", ""),
        "DeleteSession": ("DELETE", ""),
        "Navigate": ("POST", "/url"),
        "ExecuteScript": ("POST", "/execute/sync"),
        "FindElement": ("POST", "/element"),
        "ElementClick": ("POST", "/element/{id}/click"),
        "ElementSendKeys": ("POST", "/element/{id}/value"),
        "TakeScreenshot": ("GET", "/screenshot"),
    }

    def __init__(self, port: int) -> None:
        self._port = port
        self._session = "/session"

    def send(self, name: str, **values: object) -> Any:  # noqa: ANN401 - as JSON has it
        method, route = self._ROUTES[name]
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WAIT_SECONDS)
        with contextlib.closing(connection):
            body = json.dumps(values) if method == "POST" else None
            connection.request(method, self._session + route.format(**values), body)
            value = json.load(connection.getresponse())["value"]
        assert not (isinstance(value, dict) and "error" in value), value
        if name == "NewSession":
            self._session += f"/{value['sessionId']}"
        return value


class _DevTools:
    """Chromium's own end: JSON by two pipes, each message ended by a zero byte. An element's id is its selector."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb")
        self._numbers = itertools.count(1)
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def close(self) -> None:
        self._commands.close()
        self._answers.close()

    def _ask(self, method: str, session: str | None = None, **values: object) -> Any:  # noqa: ANN401 - as JSON has it
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": values, **({"sessionId": session} if session else {})}
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(b"".join(iter(lambda: self._answers.read(1), b"\0")))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def send(self, name: str, **values: object) -> Any:  # noqa: ANN401 - as JSON has it
        if name == "Navigate":
            self._ask("Page.navigate", self._session, **values)
            _until(lambda: self.send("ExecuteScript", script="return document.readyState") == "complete")
            return None
        if name == "FindElement":
            return {_ELEMENT: values["value"]}
        if name == "ElementSendKeys":
            root = self._ask("DOM.getDocument", self._session)["root"]["nodeId"]
            node = self._ask("DOM.querySelector", self._session, nodeId=root, selector=values["id"])["nodeId"]
            files = str(values["text"]).split("\n")
            return self._ask("DOM.setFileInputFiles", self._session, nodeId=node, files=files)
        if name == "ElementClick":
            return self.send("ExecuteScript", script=f"document.querySelector({json.dumps(values['id'])}).click()")
        assert name == "ExecuteScript", name
        expression = f"(() => {{ {values['script']} }})()"
        told = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self._ask("Runtime.evaluate", self._session, **told)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Driver]:
    """Run Chromium with an empty profile below a folder; nothing of it is watched that is not asked for."""
    program = require_program("chromium")
    ours, theirs = os.pipe(), os.pipe()
    inherited = (ours[0], theirs[1])
    script = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
    options = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--lang=en-GB"]
    command: list[str | Path] = ["bash", "-c", script, program, *options, f"--user-data-dir={folder / 'profile'}"]
    with _running(command, folder, passed=inherited):
        for end in inherited:
            os.close(end)
        with contextlib.closing(_DevTools(ours[1], theirs[0])) as commands:
            yield Driver(commands, folder)


@contextlib.contextmanager
def firefox(folder: Path) -> Iterator[Driver]:
    """Run Firefox with an empty profile below a folder."""
    program = require_program("firefox-esr")
    profile, downloads = folder / "profile", folder / "downloads"
    for each in (profile, downloads):
        each.mkdir()
    preferences = {**_PREFERENCES, "browser.download.dir": str(downloads)}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items()]
    (profile / "user.js").write_text("".join(lines), encoding="utf-8")
    told = profile / "MarionetteActivePort"
    command: list[str | Path] = [program, "--headless", "--marionette", "--no-remote", "--profile", profile]
    with _running(command, folder):
        _until(lambda: told.exists() and told.read_text().strip() != "")
        with contextlib.closing(_Marionette(int(told.read_text()))) as commands:
            commands.send("NewSession", strictFileInteractability=False)
            yield Driver(commands, downloads)


@contextlib.contextmanager
def webkit(folder: Path) -> Iterator[Driver]:
    """Run WebKitGTK's small browser on a display of its own, with an empty home below a folder."""
    require_program("Xvfb")
    program = require_program("WebKitWebDriver")
    (browser,) = sorted(Path("/usr/lib").glob("*/webkit2gtk-4.1/MiniBrowser"))
    port = _free_port()
    commands = _Http(port)
    options = {"binary": str(browser), "args": ["--automation"]}
    with _display(folder) as display:
        environment = {"DISPLAY": display, "HOME": str(folder), "GDK_BACKEND": "x11", "LANG": "C.UTF-8"}
        with _running([program, f"--port={port}"], folder, environment):
            _until(lambda: _answers(port))
            commands.send("NewSession", capabilities={"alwaysMatch": {"webkitgtk:browserOptions": options}})
            try:
                yield Driver(commands, folder)
            finally:
                commands.send("DeleteSession")


@contextlib.contextmanager
def _display(folder: Path) -> Iterator[str]:
    """Run an X server that shows nothing; it chooses its own number."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    with os.fdopen(read) as number, _running(command, folder, passed=[write]):
        os.close(write)
        yield f":{number.readline().strip()}"


@contextlib.contextmanager
def _running(
    command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None, passed: Sequence[int] = ()
) -> Iterator[None]:
    """Run a program until the end of the block; its words go into a file."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
            pass_fds=passed,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"the browser did not start within {_START_SECONDS} s"
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
