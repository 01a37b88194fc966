"""User names and passwords from a Docker config.json: {"auths": {"<host>": {"auth": "<base64 user:password>"}}}."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import msgspec

from hearthd.transfer.errors import TransferError

MAX_FILE_BYTES = 1 << 20


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""


class _Config(msgspec.Struct):
    auths: dict[str, _Entry] = {}


def basic_credentials(path: str, host: str) -> str:
    """`Basic <base64>` for the host ("localhost:5000"); "" where the file at `path` ("": no file) has none.

    Raises TransferError for a file that cannot be read or is no such configuration.
    """
    if not path:
        return ""
    for name, entry in _read(Path(path)).auths.items():
        if _host(name) == host:
            return _value(entry, path, name)
    return ""


def _read(path: Path) -> _Config:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=_Config)
    except FileNotFoundError:
        return _Config()
    except OSError as error:
        raise TransferError(f"credentials {path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransferError(f"credentials {path} are no Docker configuration: {error}") from error


def _host(name: str) -> str:
    """The host of a key: "https://index.docker.io/v1/" and "index.docker.io" are the same."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


def _value(entry: _Entry, path: str, name: str) -> str:
    if not entry.auth:
        text = f"{entry.username}:{entry.password}".encode()
        return "Basic " + base64.b64encode(text).decode() if entry.username else ""
    try:
        pair = base64.b64decode(entry.auth, validate=True)
    except binascii.Error as error:
        raise TransferError(f"credentials {path}: auths[{name!r}].auth is not base64") from error
    if b":" not in pair:
        raise TransferError(f"credentials {path}: auths[{name!r}].auth is not user:password")
    return "Basic " + base64.b64encode(pair).decode()
