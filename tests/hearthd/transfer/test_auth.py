"""Authentication, as a registry sees it, and the key."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hearthd.transfer.auth import Challenge, parse_challenges
from hearthd.transfer.messages import UNAUTHORIZED, Finished, MakeKey, Repository
from tests.hearthd.transfer.fetching import MIB, blob_order, failure, manifest_order, random_bytes, settings
from tests.registries.misbehaving import Basic, Bearer, MisbehavingRegistry, misbehaving
from tests.registries.sender import Sender, sender

MANIFEST = b"{}"
NAME = "library/tiny:latest"
USER = "ali:open sesame"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Where the key is to be."""
    return tmp_path / "keys" / "id_ed25519"


@pytest.fixture
def signer(key: Path) -> Iterator[Sender]:
    """A process with a key."""
    with sender(settings(key=str(key))) as process:
        yield process


def made_key(process: Sender) -> str:
    """The public key."""
    (answer,) = process.do(MakeKey(id=9))
    assert isinstance(answer, Finished), answer
    return answer.data.decode()


def docker_config(directory: Path, hosts: dict[str, Any]) -> str:
    """Path of a file with these `auths`."""
    path = directory / "config.json"
    path.write_text(json.dumps({"auths": hosts, "credsStore": "desktop"}))
    return str(path)


def pair(user: str = USER) -> dict[str, str]:
    """An entry of `auths`."""
    return {"auth": base64.b64encode(user.encode()).decode()}


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_challenge_is_answered_by_the_devices_signature(registry: MisbehavingRegistry, signer: Sender) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(public_key=made_key(signer))
    assert signer.do(manifest_order(registry)) == [Finished(1, MANIFEST)]
    assert registry.auth.num_tokens == 1
    assert "token-1" not in signer.close()


def test_streams_and_jobs_of_a_repository_share_a_token(
    registry: MisbehavingRegistry, signer: Sender, directory: Path
) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(public_key=made_key(signer))
    digest = registry.add(random_bytes(20 * MIB))
    assert signer.do(manifest_order(registry))[-1] == Finished(1, MANIFEST)
    assert signer.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert registry.auth.num_tokens == 1


def test_token_that_runs_out_is_replaced_in_the_middle_of_a_blob(
    registry: MisbehavingRegistry, signer: Sender, directory: Path
) -> None:
    registry.auth = Bearer(public_key=made_key(signer), num_uses=1)
    digest = registry.add(random_bytes(30 * MIB))
    assert signer.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert registry.auth.num_tokens >= 2


def test_repositories_have_tokens_of_their_own(registry: MisbehavingRegistry, signer: Sender) -> None:
    registry.auth = Bearer(public_key=made_key(signer))
    for path in ("library/tiny", "library/other"):
        registry.manifests[f"{path}:latest"] = MANIFEST
        repository = Repository(host=registry.host, path=path, plain=True)
        assert signer.do(manifest_order(registry, repository=repository))[-1] == Finished(1, MANIFEST)
    assert registry.auth.num_tokens == 2


def test_key_that_the_registry_does_not_know_is_refused_with_a_hint(
    registry: MisbehavingRegistry, signer: Sender
) -> None:
    made_key(signer)
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(public_key="ssh-ed25519 AAAAother")
    failed = failure(signer.do(manifest_order(registry)))
    assert (failed.reason, failed.status) == (UNAUTHORIZED, 401)
    assert failed.error.startswith("pull model manifest: unauthorized: access denied")
    assert registry.host in failed.error


def test_token_that_is_not_accepted_is_asked_for_only_once(registry: MisbehavingRegistry, signer: Sender) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(public_key=made_key(signer), num_uses=-1)
    failed = failure(signer.do(manifest_order(registry)))
    assert failed.reason == UNAUTHORIZED
    assert "does not know this device's key or credentials" in failed.error
    assert registry.auth.num_tokens == 1


def test_registry_that_knows_no_signatures_gives_its_token_to_everybody(
    registry: MisbehavingRegistry, signer: Sender
) -> None:
    made_key(signer)
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(user="")
    assert signer.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


def test_realm_on_another_host_gets_no_signature(registry: MisbehavingRegistry, signer: Sender) -> None:
    made_key(signer)
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(realm=f"http://{registry.content_host}/token")
    assert signer.do(manifest_order(registry)) == [Finished(1, MANIFEST)]
    (asked,) = [seen for seen in registry.seen if seen.path.startswith("/token")]
    assert (asked.content_host, asked.authorization) == (True, "")


def test_realm_gets_the_registrys_credentials(registry: MisbehavingRegistry, tmp_path: Path) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(realm=f"http://{registry.content_host}/token", user=USER)
    credentials = docker_config(tmp_path, {registry.host: pair()})
    with sender(settings(credentials=credentials)) as process:
        assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


def test_without_a_key_a_token_is_asked_for_without_a_name(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer()
    assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


@pytest.mark.parametrize("realm", ["gopher://x/token", "http://[::1/"])
def test_realm_that_is_no_address_is_refused(registry: MisbehavingRegistry, signer: Sender, realm: str) -> None:
    made_key(signer)
    registry.manifests[NAME] = MANIFEST
    registry.auth = Bearer(realm=realm)
    failed = failure(signer.do(manifest_order(registry)))
    assert "is no address" in failed.error
    assert failed.reason == UNAUTHORIZED


@pytest.mark.parametrize("body", [b"", b"[]", b'{"token": 5}', b'{"token": ""}', b'{"token": "a\\r\\nX: b"}', b"\xff"])
def test_answer_without_a_usable_token_is_refused(registry: MisbehavingRegistry, process: Sender, body: bytes) -> None:
    with misbehaving() as other:
        other.manifests["realm:x"] = body
        registry.manifests[NAME] = MANIFEST
        registry.auth = Bearer(realm=f"http://{other.host}/v2/realm/manifests/x")
        failed = failure(process.do(manifest_order(registry)))
    assert f"{other.host} answers with no" in failed.error


# -- user names and passwords ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{host}", "http://{host}/v1/", "{host}/"])
def test_basic_challenge_is_answered_from_the_docker_configuration(
    registry: MisbehavingRegistry, tmp_path: Path, name: str
) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Basic(USER)
    credentials = docker_config(tmp_path, {"other": pair("x:y"), name.format(host=registry.host): pair()})
    with sender(settings(credentials=credentials)) as process:
        assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


def test_user_name_and_password_in_the_clear_are_understood(registry: MisbehavingRegistry, tmp_path: Path) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Basic(USER)
    entry = {"username": "ali", "password": "open sesame"}
    with sender(settings(credentials=docker_config(tmp_path, {registry.host: entry}))) as process:
        assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


def test_credentials_of_another_host_are_not_sent(registry: MisbehavingRegistry, tmp_path: Path) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Basic(USER)
    with sender(settings(credentials=docker_config(tmp_path, {"localhost": pair()}))) as process:
        failed = failure(process.do(manifest_order(registry)))
    assert failed.reason == UNAUTHORIZED
    assert "wants a user name and password" in failed.error
    assert {seen.authorization for seen in registry.seen} == {""}


def test_wrong_password_is_refused_after_one_try(registry: MisbehavingRegistry, tmp_path: Path) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Basic(USER)
    with sender(settings(credentials=docker_config(tmp_path, {registry.host: pair("ali:wrong")}))) as process:
        failed = failure(process.do(manifest_order(registry)))
    assert (failed.reason, len(registry.seen)) == (UNAUTHORIZED, 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "are no Docker configuration"),
        ('{"auths": 5}', "are no Docker configuration"),
        ('{"auths": {"HOST": {"auth": "*"}}}', "auth is not base64"),
        ('{"auths": {"HOST": {"auth": "YWxp"}}}', "auth is not user:password"),
    ],
)
def test_damaged_docker_configuration_is_named(
    registry: MisbehavingRegistry, tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text.replace("HOST", registry.host))
    registry.manifests[NAME] = MANIFEST
    registry.auth = Basic(USER)
    with sender(settings(credentials=str(path))) as process:
        error = failure(process.do(manifest_order(registry))).error
    assert f"credentials {path}" in error
    assert sentence in error


def test_docker_configuration_that_is_not_there_is_as_good_as_none(
    registry: MisbehavingRegistry, tmp_path: Path
) -> None:
    registry.manifests[NAME] = MANIFEST
    registry.auth = Basic(USER)
    with sender(settings(credentials=str(tmp_path / "none"))) as process:
        assert "wants a user name" in failure(process.do(manifest_order(registry))).error


# -- Hugging Face ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["hf.co", "huggingface.co"])
def test_hub_endpoint_and_token_of_the_environment_are_used(registry: MisbehavingRegistry, host: str) -> None:
    registry.manifests["ali/model:Q4_K_M"] = MANIFEST
    hub = Repository(host=host, path="ali/model")
    order = manifest_order(registry, "Q4_K_M", repository=hub)
    with sender(settings(), HF_ENDPOINT=f"http://{registry.host}/", HF_TOKEN="hf_secret") as process:
        assert process.do(order) == [Finished(1, MANIFEST)]
    assert [seen.authorization for seen in registry.seen] == ["Bearer hf_secret"]


def test_hub_token_goes_to_no_other_host(registry: MisbehavingRegistry, directory: Path) -> None:
    digest = registry.add(b"some bytes", redirect=True)
    hub = Repository(host="hf.co", path="ali/model")
    with sender(settings(), HF_ENDPOINT=f"http://{registry.host}", HF_TOKEN="hf_secret") as process:
        assert process.do(blob_order(registry, digest, directory, repository=hub))[-1] == Finished(1)
        registry.manifests[NAME] = MANIFEST
        process.do(manifest_order(registry))
    assert [(seen.content_host, seen.authorization) for seen in registry.seen] == [
        (False, "Bearer hf_secret"),
        (True, ""),
        (False, ""),
    ]


# -- challenges --------------------------------------------------------------------------------------------------------

CHALLENGES = [
    ([], []),
    (["Negotiate"], []),
    (['Bearer realm="https://a/t",service="s",scope="x y"'], [Challenge("bearer", "https://a/t", "s", "x y")]),
    (['bearer REALM=https://a/t , service = "s"'], [Challenge("bearer", "https://a/t", "s")]),
    (["Basic realm=x"], [Challenge("basic", "x")]),
    (['Basic realm="x", Bearer realm="y"'], [Challenge("bearer", "y"), Challenge("basic", "x")]),
    (['Basic realm="x"', 'Bearer realm="y",error="z"'], [Challenge("bearer", "y"), Challenge("basic", "x")]),
    (["Bearer " + ',="' * 5000], [Challenge("bearer")]),
]


@pytest.mark.parametrize(("headers", "expected"), CHALLENGES)
def test_challenges_are_understood_bearer_first(headers: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(headers) == expected


# -- the key -----------------------------------------------------------------------------------------------------------


def test_key_is_made_once_and_only_for_its_owner(signer: Sender, key: Path) -> None:
    public = made_key(signer)
    content = key.read_bytes()
    assert public.startswith("ssh-ed25519 AAAA")
    assert key.with_name("id_ed25519.pub").read_text() == public + "\n"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (key, key.parent)]
    assert modes == [0o600, 0o700]
    assert made_key(signer) == public
    assert key.read_bytes() == content
    assert sorted(path.name for path in key.parent.iterdir()) == ["id_ed25519", "id_ed25519.pub"]


def test_two_processes_make_one_key(key: Path) -> None:
    with sender(settings(key=str(key))) as one, sender(settings(key=str(key))) as other:
        one.order(MakeKey(id=1))
        other.order(MakeKey(id=1))
        assert list(one.answers()) == list(other.answers())


def test_public_half_that_is_missing_is_written_again(signer: Sender, key: Path) -> None:
    public = made_key(signer)
    key.with_name("id_ed25519.pub").unlink()
    assert made_key(signer) == public
    assert key.with_name("id_ed25519.pub").read_text() == public + "\n"


def ssh_keygen(*arguments: str) -> str:
    """What the program prints; without it the calling test is skipped."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen (Debian's openssh-client) is not here")
    return subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=True).stdout


def test_key_is_one_that_openssh_reads(signer: Sender, key: Path) -> None:
    public = made_key(signer)
    assert ssh_keygen("-y", "-f", str(key)).split()[:2] == public.split()[:2]


def test_key_that_openssh_made_is_used(signer: Sender, key: Path) -> None:
    key.parent.mkdir()
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", str(key))
    assert made_key(signer).split()[:2] == key.with_name("id_ed25519.pub").read_text().split()[:2]


def test_key_that_is_no_ed25519_is_refused(signer: Sender, key: Path) -> None:
    key.parent.mkdir()
    rsa = generate_private_key(65537, 2048)
    key.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    assert failure(signer.do(MakeKey(id=1))).error.startswith(f"key {key} is not an ed25519 key")


def test_key_with_a_passphrase_is_refused(signer: Sender, key: Path) -> None:
    key.parent.mkdir()
    ssh_keygen("-q", "-t", "ed25519", "-N", "secret", "-f", str(key))
    content = key.read_bytes()
    assert failure(signer.do(MakeKey(id=1))).error.startswith(f"key {key} is no OpenSSH private key without a pass")
    assert key.read_bytes() == content


def test_damaged_key_is_refused_and_stays(registry: MisbehavingRegistry, signer: Sender, key: Path) -> None:
    key.parent.mkdir()
    key.write_text("nonsense")
    assert failure(signer.do(MakeKey(id=1))).error.startswith(f"key {key} is no OpenSSH private key")
    registry.auth = Bearer(public_key="ssh-ed25519 AAAA")
    assert f"key {key} is no OpenSSH private key" in failure(signer.do(manifest_order(registry))).error
    assert key.read_text() == "nonsense"


def test_place_where_no_key_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "id_ed25519"
    with sender(settings(key=str(path))) as process:
        failed = failure(process.do(MakeKey(id=1)))
    assert failed.error.startswith(f"key {path}: ")


def test_link_to_nowhere_is_no_place_for_a_key(signer: Sender, key: Path) -> None:
    key.parent.mkdir()
    key.symlink_to("nowhere")
    assert failure(signer.do(MakeKey(id=1))).error == f"key {key} cannot be read: No such file or directory"


def test_without_a_path_no_key_is_made(process: Sender) -> None:
    assert failure(process.do(MakeKey(id=1))).error == "no key can be made: Settings.key names no file"
