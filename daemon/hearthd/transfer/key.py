"""This device's ed25519 key in OpenSSH's files: `<path>` and `<path>.pub`."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from hearthd.errors import StoreError
from hearthd.store.durable import explained, sync_directory, temp_path, write_all
from hearthd.transfer.errors import TransferError
from hearthd.transfer.http import Http
from hearthd.transfer.messages import MakeKey, Settings
from hearthd.transfer.threads import in_thread

MAX_FILE_BYTES = 64 << 10
KEY_MODE = 0o600
PUBLIC_MODE = 0o644
DIR_MODE = 0o700


async def make_key(http: Http, settings: Settings, job: MakeKey, report: Callable[[int, int], None]) -> bytes:
    """The public key in OpenSSH's form; the key is made where it is missing. Raises TransferError."""
    if not settings.key:
        raise TransferError("no key can be made: Settings.key names no file")
    return await in_thread(ensure_key, Path(settings.key))


def ensure_key(path: Path) -> bytes:
    """The public key of the file, which is made where it is missing and never changed where it is there."""
    try:
        with explained(path.parent):
            if not os.path.lexists(path):
                path.parent.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
                _write_new(path, _generate(), KEY_MODE)
            public = _public_line(load_key(path))
            if not path.with_name(path.name + ".pub").exists():
                _write_new(path.with_name(path.name + ".pub"), public + b"\n", PUBLIC_MODE)
    except StoreError as error:
        raise TransferError(f"key {path}: {error}") from error
    return public


def sign(path: str, message: bytes) -> str:
    """`<public key>:<signature>`, both in base64. Raises TransferError where the key cannot be read."""
    private = load_key(Path(path))
    blob = _public_line(private).split()[1].decode()
    return f"{blob}:{base64.b64encode(private.sign(message)).decode()}"


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key. Raises TransferError where the file holds none that can be used."""
    try:
        with path.open("rb") as file:
            private = load_ssh_private_key(file.read(MAX_FILE_BYTES), password=None)
    except OSError as error:
        raise TransferError(f"key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TransferError(f"key {path} is no OpenSSH private key without a passphrase: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise TransferError(f"key {path} is not an ed25519 key; registries know devices by such keys only")
    return private


def _generate() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _public_line(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Make the file, whole or not at all; one that another process made meanwhile stays as it is."""
    temp = temp_path(path.parent)
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
        _publish(temp, path)
        sync_directory(path.parent)
    finally:
        os.close(fd)
        temp.unlink(missing_ok=True)


def _publish(temp: Path, path: Path) -> None:
    try:
        os.link(temp, path)  # unlike a rename, it never replaces
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not os.path.lexists(path):
            temp.rename(path)
