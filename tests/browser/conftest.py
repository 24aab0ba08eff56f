"""A real study, its pages served by the command that a user types, its static copy by a plain web server, and Chromium."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "scripts", "report", "envs", "profiles")
CHROMIUM = "/usr/bin/chromium"
RUN = "/default/crosscoder/latents128-k8-seed0/"
OTHER = "default/crosscoder/latents128-k4-seed0"
SCRIPTED = "html.js"
SHOWN = "html[data-shown]"
"""What a page has once its scripts answer, and once they have drawn it."""


class Study(NamedTuple):
    """A finished study and the address of its pages."""

    folder: Path
    address: str


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with its figures, its database and its static copy."""
    folder = tmp_path_factory.mktemp("study")
    for part in PARTS:
        source = PROJECT / part
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, folder / part)
    shutil.copyfile(PROJECT / "tests/end_to_end/tiny.yaml", folder / "config.yaml")
    targets = ("results/figures/", "results/database/", "results/browser/")
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *targets]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def study(finished: Path) -> Iterator[Study]:
    """The study as `make browse` serves it."""
    command = [sys.executable, "scripts/browse.py", "--config", "config.yaml", "--port", "0"]
    with subprocess.Popen(command, cwd=finished, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), address
        yield Study(finished, address.rstrip("/"))
        process.terminate()


@pytest.fixture(scope="session")
def copy(finished: Path) -> Iterator[str]:
    """The static copy behind a web server that knows nothing of it."""
    handler = partial(Quiet, directory=str(finished / "results/browser"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of its own whose scripts must not fail."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert not [problem for problem in problems if "Failed to load resource" not in problem], problems
