"""Where a repository's registry answers: its URL, the proxy in between, and Hugging Face's other doors."""

from __future__ import annotations

import os
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from hearthd.transfer.errors import TransferError
from hearthd.transfer.messages import HubFile, Repository

HUB_HOSTS = {"hf.co", "huggingface.co"}
HUB_URL = "https://huggingface.co"


def registry_url(repository: Repository) -> URL:
    """The root of the registry, without "/v2/". Raises TransferError where the host cannot be part of a URL.

    HF_ENDPOINT stands in for Hugging Face's hosts:
    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    text = f"{'http' if repository.plain else 'https'}://{repository.host}"
    if repository.host in HUB_HOSTS and endpoint:
        text = endpoint
    try:
        url = URL(text)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("it names no host")
    except ValueError as error:
        raise TransferError(f"{text} is no registry's address: {error}") from error
    return url


def repository_url(repository: Repository, where: str) -> URL:
    """The URL of `where` ("manifests/latest", "blobs/sha256:...") in a repository.

    `where` may also be what a registry names: a path from its root ("/v2/...", query and all) or a whole URL.
    Raises TransferError.
    """
    root = registry_url(repository)
    try:
        if "://" in where or where.startswith("/"):
            return root.join(URL(where, encoded=True))
        return URL(f"{root}".rstrip("/") + f"/v2/{repository.path}/{where}")
    except ValueError as error:
        raise TransferError(f"{repository.host} names an address that cannot be used: {error}") from error


def hub_url(repository: Repository) -> str:
    """Where the hub answers for more than the registry protocol, without a final "/". Raises TransferError."""
    by_environment = os.environ.get("HF_ENDPOINT", "")
    return f"{registry_url(repository)}".rstrip("/") if by_environment else HUB_URL


def hub_file_url(repository: Repository, file: HubFile) -> URL:
    """Where the hub keeps a file; https://huggingface.co/docs/hub/en/models-downloading. Raises TransferError."""
    return URL(f"{hub_url(repository)}/{repository.path}/resolve/{quote(file.commit)}/{quote(file.name)}", encoded=True)


def hub_token(repository: Repository) -> str:
    """HF_TOKEN for Hugging Face or what stands in for it; "" for every other registry."""
    return os.environ.get("HF_TOKEN", "").strip() if repository.host in HUB_HOSTS else ""


def hub_hint(repository: Repository) -> str:
    """What to do about a repository that the hub does not show us: the end of a sentence that begins with its name."""
    if not hub_token(repository):
        return "is private, gated or does not exist; set HF_TOKEN to a token that may read it"
    return (
        "is private, gated or does not exist, and HF_TOKEN may not read it; "
        f"accept its conditions on {HUB_URL}/{repository.path}, or take another token"
    )


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def host_of(url: URL) -> str:
    """`host` or `host:port`, as in a name: without the scheme's own port, user and password."""
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    return host if url.is_default_port() else f"{host}:{url.port}"


def trusts(repository: Repository, url: URL) -> bool:
    """Whether `url` is on the repository's own registry, which alone sees authorization.

    Hugging Face's hosts are one registry: one leads to the other.
    """
    own = registry_url(repository)
    if own.origin() == url.origin():
        return True
    return own.scheme == url.scheme == "https" and {host_of(own), host_of(url)} <= HUB_HOSTS


def proxy_for(url: URL) -> URL | None:
    """The proxy that the environment names for `url`; never one for this machine.

    Raises TransferError where it names none that can be used.
    """
    host = url.host or ""
    if is_loopback(host) or proxy_bypass(host):
        return None
    text = getproxies().get(url.scheme)
    return _proxy_url(text) if text else None


def _proxy_url(text: str) -> URL:
    with suppress(ValueError):
        proxy = URL(text if "://" in text else f"http://{text}")
        if proxy.scheme in ("http", "https") and proxy.host:
            return proxy
    place = text.rpartition("@")[2][:100]  # without user name and password
    raise TransferError(f"the environment's proxy {place!r} cannot be used; name one by http://host:port")
