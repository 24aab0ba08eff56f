"""What a reader sees while the database is gone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect


def test_a_database_that_is_gone_is_said_and_comes_back(page: Page, tmp_path: Path) -> None:
    """The page belongs to a study of its own, whose server is elsewhere, as a real MongoDB would be."""
    home = tmp_path / "server"
    with connect(DatabaseSettings(), home) as database:
        host, port = database.client.address or ("", 0)
        config = (Path(__file__).parents[1] / "end_to_end/tiny.yaml").read_text()
        address = f"mongodb://{host}:{port}/?directConnection=true&serverSelectionTimeoutMS=500"
        (tmp_path / "config.yaml").write_text(f"{config}\ndatabase: {{uri: '{address}'}}\n")
        command = [
            sys.executable,
            str(Path(__file__).parents[2] / "scripts/browse.py"),
            *("--config", "config.yaml", "--port", "0"),
        ]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            served = process.stdout.readline().strip()
            page.goto(served)
            expect(page.locator("main")).to_contain_text("There is no run in this database yet")
            os.kill(_server(home), signal.SIGKILL)
            answer = page.goto(served)
            assert answer
            assert answer.status == 503
            expect(page.locator("main")).to_contain_text(f"{host}:{port}")
            process.terminate()


def _server(home: Path) -> int:
    return int(json.loads((home / "server.json").read_text())["pid"])
