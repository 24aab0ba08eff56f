"""Show the features of the study's database as web pages."""

import secrets
import socket
import sys
from argparse import ArgumentTypeError, Namespace
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from ontogeny.browser.app import LOOPBACK, make_app
from ontogeny.command import command, run
from ontogeny.config.load import read_study
from ontogeny.errors import UserError

PORT = 8765


def main(arguments: Namespace) -> None:
    """Serve until Ctrl-C."""
    study = read_study(arguments.config)
    root = Path(study.root)
    token = _token(arguments.host, arguments.token_file)
    app = make_app(
        study.database,
        root / "database" / "server",
        root,
        study.study,
        token,
        study.tokens.context_length,
        study.figure_names(),
    )
    with _listen(arguments.host, arguments.port) as listening:
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        # A token from a file is the reader's to know; one that is made here is known from this line alone.
        query = f"?token={token}" if token and arguments.token_file is None else ""
        sys.stdout.write(f"http://{host}:{listening.getsockname()[1]}/{query}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        # When all is closed, uvicorn raises the Ctrl-C that ended it once more.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def _token(host: str, file: Path | None) -> str | None:
    """Read the token, or make one where the address can be reached from elsewhere."""
    if file is None:
        return None if host in LOOPBACK else secrets.token_urlsafe(32)
    try:
        if file.stat().st_mode & 0o077:
            raise UserError(f"--token-file: others may read {file}; run chmod 600 {file}")
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--token-file: {file} cannot be read; expected a file with a token") from None
    if len(token) < 16:
        raise UserError(f"--token-file: the token in {file} is too short; expected 16 characters or more")
    return token


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"--port {port}: {host} cannot be used ({error.strerror}); choose another --port") from None


def _address(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no IP address, such as 127.0.0.1 or 0.0.0.0") from None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError(f"{text!r} is no port; expected 0 to 65535")
    return int(text)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the study (default: config.yaml)")
    parser.add_argument("--host", type=_address, default="127.0.0.1", help="address; others than loopback need a token")
    parser.add_argument("--port", type=_port, default=PORT, help=f"port, 0 for any that is free (default: {PORT})")
    parser.add_argument("--token-file", type=Path, help="file of a token that every page needs")
    run(parser, main)
