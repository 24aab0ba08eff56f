import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from database_files import write_run
from pydantic import ValidationError
from pymongo import MongoClient

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect, server_name
from ontogeny.database.documents import RUNS
from ontogeny.database.ingest import write_receipt
from ontogeny.errors import UserError

PASSWORD = "p@ss/w:rd %41?"

SERVE = """
import sys
from secantus import SecantusDBServer
server = SecantusDBServer(storage_path=sys.argv[1], require_auth=sys.argv[2] == "auth", replica_set_name=None)
server.start()
print(server.port, flush=True)
sys.stdin.read()
server.stop()
"""


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a server that asks for user and password."""
    home = str(tmp_path_factory.mktemp("guarded"))
    for kind in ("open", "auth"):
        command = [sys.executable, "-c", SERVE, home, kind]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            port = int(process.stdout.readline())
            if kind == "auth":
                yield port
            else:
                with MongoClient[dict[str, object]]("127.0.0.1", port) as client:
                    roles = [{"role": "root", "db": "admin"}]
                    client.admin.command("createUser", "ada", pwd=PASSWORD, roles=roles)
            process.communicate()


def refusal(uri: str, home: Path) -> str:
    """What the user is told."""
    with pytest.raises(UserError) as raised, connect(DatabaseSettings(uri=uri), home) as database:
        database.things.insert_one({})
    said = str(raised.value)
    assert "\n" not in said
    for part in ("secret", PASSWORD, quote_plus(PASSWORD)):
        assert part not in said
    return said


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_closed_port_is_one_line_within_seconds(tmp_path: Path) -> None:
    port = free_port()
    said = refusal(f"mongodb://ada:secret@127.0.0.1:{port}/?appName=x", tmp_path)
    assert said == (
        f"database.uri: mongodb://127.0.0.1:{port} does not answer (127.0.0.1:{port}: [Errno 111] Connection refused); "
        "mend the address, start the server, or use 'embedded'"
    )


def test_a_server_that_says_nothing_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        said = refusal(f"mongodb://ada:secret@127.0.0.1:{port}/?serverSelectionTimeoutMS=300", tmp_path)
    assert said.startswith(f"database.uri: mongodb://127.0.0.1:{port} does not answer (")


def test_a_web_server_is_no_mongodb(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = refusal(f"mongodb://ada:secret@127.0.0.1:{server.server_port}/?serverSelectionTimeoutMS=300", tmp_path)
        server.shutdown()
    assert said.startswith(f"database.uri: mongodb://127.0.0.1:{server.server_port} is no MongoDB server (")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mongodb://ada:secret@", " (Empty host (or extra comma in host list)); expected mongodb://host:port/ or "),
        ("mongodb://ada:sec%ret@host/", " (Username and password must be escaped according to RFC 3986"),
        ("mongodb://ada:secret/secret@host/", "; expected mongodb://host:port/ or "),
        ("mongodb://host/?tls=true&tlsCAFile=/nowhere.pem", " ([Errno 2] No such file or directory: '/nowhere.pem')"),
        (
            "mongodb+srv://ada:secret@nowhere.invalid/",
            " (",
        ),
    ],
)
def test_an_address_that_is_none_is_one_line(tmp_path: Path, uri: str, expected: str) -> None:
    assert f"is no address that MongoDB's driver takes{expected}" in refusal(uri, tmp_path)


def test_a_wrong_password_is_one_line_without_it(tmp_path: Path, guarded: int) -> None:
    said = refusal(f"mongodb://ada:secret@127.0.0.1:{guarded}/", tmp_path)
    assert said.startswith(f"database.uri: mongodb://127.0.0.1:{guarded} refuses the user name or the password (")


def test_a_missing_user_is_one_line(tmp_path: Path, guarded: int) -> None:
    said = refusal(f"mongodb://127.0.0.1:{guarded}/", tmp_path)
    assert said.startswith(f"database.uri: mongodb://127.0.0.1:{guarded} does not allow this user to read and write")


def test_credentials_come_from_the_environment(tmp_path: Path, guarded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_USER", "ada")
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    settings = DatabaseSettings(uri=f"mongodb://${{DB_USER}}:${{DB_PASSWORD}}@127.0.0.1:{guarded}/")
    with connect(settings, tmp_path) as database:
        database.things.insert_one({"_id": 1})
        assert database.things.count_documents({}) == 1
        assert database.name == "ontogeny"
    assert PASSWORD not in settings.model_dump_json()
    assert quote_plus(PASSWORD) not in settings.model_dump_json()
    assert server_name(settings) == f"mongodb://127.0.0.1:{guarded}"


def test_a_receipt_holds_no_credentials(tmp_path: Path, guarded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    settings = DatabaseSettings(uri=f"mongodb://ada:${{DB_PASSWORD}}@127.0.0.1:{guarded}/")
    files = write_run(tmp_path)
    write_receipt(settings, tmp_path / "server", *files, tmp_path / "receipt.json", None)
    receipt = (tmp_path / "receipt.json").read_text()
    assert f'"server": "mongodb://127.0.0.1:{guarded}"' in receipt
    for secret in ("ada", "DB_PASSWORD", PASSWORD, quote_plus(PASSWORD)):
        assert secret not in receipt
    with connect(settings, tmp_path) as database:
        assert database[RUNS].count_documents({"hash": json.loads(receipt)["hash"]}) == 1


def test_a_missing_variable_is_one_line(tmp_path: Path) -> None:
    said = refusal("mongodb://${ONTOGENY_NOT_SET}@127.0.0.1/", tmp_path)
    assert said == "database.uri: the environment variable ONTOGENY_NOT_SET is not set; export it and run again"


def test_credentials_come_from_a_file_of_their_owner(tmp_path: Path, guarded: int) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"# the server of the group\nDB_USER=ada\n DB_PASSWORD = {PASSWORD} \n".replace(" = ", "="))
    uri = f"mongodb://${{DB_USER}}:${{DB_PASSWORD}}@127.0.0.1:{guarded}/"
    settings = DatabaseSettings(uri=uri, credentials=str(file))
    file.chmod(0o644)
    with pytest.raises(UserError, match=f"^database.credentials: others may read {file}; run chmod 600 {file}$"):
        settings.address()
    file.chmod(0o600)
    with connect(settings, tmp_path) as database:
        database.things.insert_one({"_id": "by a file"})
    assert PASSWORD not in settings.model_dump_json()
    file.write_text("DB_USER=ada\nsecret\n")
    with pytest.raises(UserError, match=f"^database.credentials: line 2 of {file} is no NAME=value$"):
        settings.address()
    file.write_text("DB_USER=reader\n")
    with pytest.raises(UserError, match=f"^database.uri: DB_PASSWORD is neither in {file} nor exported; add a line "):
        settings.address()
    file.unlink()
    with pytest.raises(UserError, match=f"^database.credentials: {file} cannot be read; expected lines NAME=value$"):
        settings.address()


@pytest.mark.parametrize(
    ("uri", "refused"),
    [
        ("mongodb://ada:secret@host/", True),
        ("mongodb://ada:sec${DB_PASSWORD}@host/", True),
        ("mongodb://${DB_USER}:${DB_PASSWORD}@host/", False),
        ("mongodb://ada@host:27017/", False),
        ("mongodb://host:27017/", False),
        ("embedded", False),
    ],
)
def test_a_study_holds_no_password(uri: str, refused: bool) -> None:
    problems = list(DatabaseSettings(uri=uri).problems())
    assert [problem.startswith("database.uri: a password stands in it; write ") for problem in problems] == [
        True
    ] * refused
    assert not any("secret" in problem for problem in problems)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("embedded", "embedded"),
        ("mongodb://ada:secret@a:1,b:2/admin?replicaSet=rs", "mongodb://a:1,b:2"),
        ("mongodb+srv://ada:secret@cluster.example.org", "mongodb+srv://cluster.example.org"),
        ("mongodb://ada:secret?/@host?w=1", "mongodb://host"),
    ],
)
def test_a_server_is_named_without_its_secrets(uri: str, name: str) -> None:
    assert server_name(DatabaseSettings(uri=uri)) == name


@pytest.mark.parametrize("settings", [{"uri": "postgres://host/"}, {"uri": "embeded"}, {"name": "a.b"}, {"name": ""}])
def test_settings_that_no_server_takes_are_refused_with_the_study(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        DatabaseSettings(**settings)
