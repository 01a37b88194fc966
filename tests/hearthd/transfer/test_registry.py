from __future__ import annotations

import os

import pytest
from yarl import URL

from hearthd.transfer.errors import TransferError
from hearthd.transfer.messages import Repository
from hearthd.transfer.registry import host_of, hub_token, proxy_for, repository_url, trusts

REPOSITORY = Repository(host="registry.example:5000", path="library/tiny")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies and no hub."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("where", "url"),
    [
        ("manifests/latest", "https://registry.example:5000/v2/library/tiny/manifests/latest"),
        ("/v2/library/tiny/blobs/uploads/1?_state=a%2Fb%3D", "https://registry.example:5000/v2/library/tiny/blobs/uploads/1?_state=a%2Fb%3D"),
        ("https://other.example/x?y=%2B", "https://other.example/x?y=%2B"),
    ],
)  # fmt: skip
def test_places_are_found_relative_to_the_repository(where: str, url: str) -> None:
    assert str(repository_url(REPOSITORY, where)) == url


@pytest.mark.parametrize(
    ("repository", "url", "trusted"),
    [
        (REPOSITORY, "https://registry.example:5000/token", True),
        (REPOSITORY, "http://registry.example:5000/token", False),
        (REPOSITORY, "https://registry.example/token", False),
        (REPOSITORY, "https://x.registry.example:5000/token", False),
        (Repository(host="hf.co", path="a/b"), "https://huggingface.co/v2/a/b", True),
        (Repository(host="hf.co", path="a/b"), "http://huggingface.co/v2/a/b", False),
        (Repository(host="hf.co", path="a/b"), "https://cdn.huggingface.co/x", False),
        (Repository(host="hf.co", path="a/b", plain=True), "https://huggingface.co/v2/a/b", False),
        (REPOSITORY, "https://hf.co/v2/a/b", False),
    ],
)
def test_only_the_registry_itself_is_trusted(repository: Repository, url: str, trusted: bool) -> None:
    assert trusts(repository, URL(url)) is trusted


def test_stand_in_of_the_hub_is_trusted_instead_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hub/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub = Repository(host="huggingface.co", path="a/b")
    assert str(repository_url(hub, "manifests/q4")) == "https://mirror.example/hub/v2/a/b/manifests/q4"
    assert trusts(hub, URL("https://mirror.example/x"))
    assert not trusts(hub, URL("https://huggingface.co/x"))
    assert (hub_token(hub), hub_token(REPOSITORY)) == ("hf_secret", "")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://models.example/x", "models.example"),
        ("https://models.example:443/x", "models.example"),
        ("http://ali:secret@models.example:443/x", "models.example:443"),
        ("http://[::1]:80/x", "[::1]"),
        ("http://[::1]:5000/x", "[::1]:5000"),
    ],
)
def test_host_is_named_as_in_a_models_name(url: str, host: str) -> None:
    assert host_of(URL(url)) == host


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://models.example/x", "http://proxy.example:3128"),
        ("https://models.example/x", None),
        ("http://127.0.0.1:11434/x", None),
        ("http://[::1]:11434/x", None),
        ("http://localhost/x", None),
        ("http://inside.example/x", None),
    ],
)
def test_proxy_is_the_one_of_the_scheme_and_none_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None
) -> None:
    monkeypatch.setenv("http_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy_for(URL(url)) == (URL(proxy) if proxy else None)


@pytest.mark.parametrize("text", ["socks5://ali:secret@proxy.example:1080", "http://", "http://[::1"])
def test_proxy_that_cannot_be_used_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("https_proxy", text)
    with pytest.raises(TransferError, match=r"the environment's proxy .* cannot be used") as caught:
        proxy_for(URL("https://models.example/x"))
    assert "secret" not in str(caught.value)
