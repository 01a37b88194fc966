"""Registries behind TLS."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hearthd.transfer.messages import UNAUTHORIZED, Finished, Repository
from tests.hearthd.transfer.fetching import blob_order, failure, manifest_order, settings
from tests.registries.misbehaving import Bearer, MisbehavingRegistry, misbehaving, moved
from tests.registries.sender import Sender, sender

MANIFEST = b"{}"
NAME = "library/tiny:latest"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, its key behind it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return path


@pytest.fixture
def registry(certificate: Path) -> Iterator[MisbehavingRegistry]:
    """A registry with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with misbehaving(context) as running:
        running.manifests[NAME] = MANIFEST
        yield running


@pytest.fixture
def trusting(certificate: Path) -> Iterator[Sender]:
    """A process on a machine that trusts the certificate."""
    with sender(settings(), SSL_CERT_FILE=str(certificate)) as process:
        yield process


def secure(registry: MisbehavingRegistry) -> Repository:
    return Repository(host=registry.host, path="library/tiny")


def insecure(registry: MisbehavingRegistry) -> Repository:
    return Repository(host=registry.host, path="library/tiny", insecure=True)


def test_registry_with_a_trusted_certificate_is_used(
    registry: MisbehavingRegistry, trusting: Sender, directory: Path
) -> None:
    assert trusting.do(manifest_order(registry, repository=secure(registry))) == [Finished(1, MANIFEST)]
    digest = registry.add(b"some bytes")
    assert trusting.do(blob_order(registry, digest, directory, repository=secure(registry)))[-1] == Finished(1)


def test_certificate_that_nobody_vouches_for_is_refused_at_once(registry: MisbehavingRegistry, process: Sender) -> None:
    failed = failure(process.do(manifest_order(registry, repository=secure(registry))))
    assert failed.error.startswith(f"pull model manifest: cannot reach {registry.host}: its certificate is not valid: ")
    assert failed.error.endswith("allow insecure transfers")
    assert registry.seen == []


def test_insecure_transfer_takes_any_certificate(registry: MisbehavingRegistry, process: Sender) -> None:
    assert process.do(manifest_order(registry, repository=insecure(registry))) == [Finished(1, MANIFEST)]


def test_redirect_from_https_to_http_is_refused(
    registry: MisbehavingRegistry, trusting: Sender, directory: Path
) -> None:
    digest = registry.add(b"some bytes", redirect=True)
    failed = failure(trusting.do(blob_order(registry, digest, directory, repository=secure(registry))))
    assert failed.error == (f"{registry.host} redirects from https to http ({registry.content_host}), which is refused")
    registry.manifests[NAME] = moved(f"http://{registry.content_host}/")
    failed = failure(trusting.do(manifest_order(registry, repository=secure(registry))))
    assert "from https to http" in failed.error
    assert not any(seen.content_host for seen in registry.seen)


def test_insecure_transfer_follows_to_http(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(b"some bytes", redirect=True)
    assert process.do(blob_order(registry, digest, directory, repository=insecure(registry)))[-1] == Finished(1)


def test_realm_without_encryption_gets_nothing(registry: MisbehavingRegistry, trusting: Sender) -> None:
    registry.auth = Bearer(realm=f"http://{registry.content_host}/token")
    failed = failure(trusting.do(manifest_order(registry, repository=secure(registry))))
    assert failed.reason == UNAUTHORIZED
    assert "is not encrypted" in failed.error
    assert not any(seen.content_host for seen in registry.seen)


def test_plain_http_to_a_tls_port_is_told(registry: MisbehavingRegistry, process: Sender) -> None:
    plain = Repository(host=registry.host, path="library/tiny", plain=True)
    assert registry.host in failure(process.do(manifest_order(registry, repository=plain))).error
