"""Where a repository's registry answers: its URL, the proxy in between, and Hugging Face's other doors."""

from __future__ import annotations

import os
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from hearthd.transfer.errors import TransferError
from hearthd.transfer.messages import Repository

HUB_HOSTS = ("hf.co", "huggingface.co")


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


def hub_token(repository: Repository) -> str:
    """HF_TOKEN for Hugging Face or what stands in for it; "" for every other registry."""
    return os.environ.get("HF_TOKEN", "").strip() if repository.host in HUB_HOSTS else ""


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_for(url: URL) -> URL | None:
    """The proxy that the environment names for `url`; never one for this machine."""
    host = url.host or ""
    if is_loopback(host) or proxy_bypass(host):
        return None
    proxy = getproxies().get(url.scheme)
    return URL(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
