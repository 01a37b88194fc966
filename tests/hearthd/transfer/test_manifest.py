from __future__ import annotations

import json

import pytest

from hearthd.transfer.messages import FAILED, NOT_FOUND, UNAUTHORIZED, Finished, Repository
from tests.hearthd.transfer.fetching import failure, manifest_order, settings
from tests.registries.misbehaving import (
    MANIFEST_TYPE,
    Bearer,
    Fault,
    Handler,
    MisbehavingRegistry,
    Range,
    moved,
    silent,
    status,
)
from tests.registries.sender import Sender, sender

MANIFEST = b'{ "schemaVersion": 2,\r\n "layers": [ ] }\n\n'  # no encoder writes it so
NAME = "library/tiny:latest"


def in_turn(*answers: bytes | Fault) -> Fault:
    """The answers one after the other, then the last one again and again."""
    left = list(answers)

    def fault(handler: Handler, part: Range) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, bytes):
            handler.reply(200, answer)
        else:
            answer(handler, part)

    return fault


def test_manifest_comes_byte_for_byte(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = MANIFEST
    assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


def test_both_kinds_of_manifest_are_asked_for(registry: MisbehavingRegistry, process: Sender) -> None:
    accepted: list[str] = []

    def note(handler: Handler, part: Range) -> None:
        accepted.append(handler.headers["Accept"])
        handler.reply(200, MANIFEST)

    registry.manifests[NAME] = note
    process.do(manifest_order(registry))
    assert MANIFEST_TYPE in accepted[0]
    assert "application/vnd.oci.image.manifest.v1+json" in accepted[0]


def test_missing_manifest_is_not_found(registry: MisbehavingRegistry, process: Sender) -> None:
    failed = failure(process.do(manifest_order(registry, "nope")))
    assert failed.error == "pull model manifest: file does not exist"
    assert (failed.reason, failed.status) == (NOT_FOUND, 404)


def test_refusal_is_told_with_status_and_body(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = status(412, "the model\nneeds a newer version")
    failed = failure(process.do(manifest_order(registry)))
    assert failed.error == "pull model manifest: 412: the model needs a newer version"
    assert (failed.reason, failed.status) == (FAILED, 412)


def test_refusal_without_a_body_is_told_by_its_reason(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = status(418, "")
    assert failure(process.do(manifest_order(registry))).error == "pull model manifest: 418: I'm a Teapot"


def test_forbidden_manifest_is_unauthorized(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = status(403)
    failed = failure(process.do(manifest_order(registry)))
    assert (failed.reason, failed.status) == (UNAUTHORIZED, 403)
    assert failed.error.startswith("pull model manifest: unauthorized: access denied")


@pytest.mark.parametrize("fault", [status(503), status(429), silent], ids=["503", "429", "silent"])
def test_failure_of_the_moment_is_overcome(registry: MisbehavingRegistry, process: Sender, fault: Fault) -> None:
    registry.manifests[NAME] = in_turn(fault, MANIFEST)
    assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


def test_failure_that_stays_is_told_after_few_tries(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = status(503, "closed")
    failed = failure(process.do(manifest_order(registry)))
    assert (failed.error, failed.status) == ("pull model manifest: 503: closed", 503)
    assert len(registry.seen) == 3


def test_host_that_is_away_is_named(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.close()
    failed = failure(process.do(manifest_order(registry)))
    assert failed.error.startswith(f"pull model manifest: cannot reach {registry.host}: ")
    assert failed.status == 0


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a b", "host:99999", "[::1", ""])
def test_host_that_cannot_be_is_named(process: Sender, registry: MisbehavingRegistry, host: str) -> None:
    repository = Repository(host=host, path="library/tiny", plain=True)
    failed = failure(process.do(manifest_order(registry, repository=repository)))
    assert failed.error.startswith("pull model manifest: ")
    assert host in failed.error
    assert "Traceback" not in process.close()


def test_redirects_are_followed(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = moved("/v2/library/other/manifests/latest")
    registry.manifests["library/other:latest"] = moved(f"http://127.0.0.1:{registry.port}/v2/a/b/manifests/c")
    registry.manifests["a/b:c"] = MANIFEST
    assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


def test_redirects_in_a_circle_are_refused(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.manifests[NAME] = moved("/v2/library/tiny/manifests/latest")
    failed = failure(process.do(manifest_order(registry)))
    assert failed.error == f"pull model manifest: {registry.host} redirects more than 5 times"


def test_redirect_to_another_host_carries_no_authorization(registry: MisbehavingRegistry, process: Sender) -> None:
    registry.auth = Bearer()
    registry.manifests[NAME] = moved(f"http://{registry.content_host}/v2/x")
    registry.manifests["x:y"] = MANIFEST
    process.do(manifest_order(registry))
    elsewhere = [seen.authorization for seen in registry.seen if seen.content_host]
    assert elsewhere and set(elsewhere) == {""}


@pytest.mark.parametrize("chunked", [True, False])
def test_manifest_that_is_far_too_long_is_refused(
    registry: MisbehavingRegistry, process: Sender, chunked: bool
) -> None:
    def flood(handler: Handler, part: Range) -> None:
        length = {"Transfer_Encoding": "chunked"} if chunked else {"Content_Length": str(1 << 40)}
        handler.head(200, **length)
        while not handler.registry.closing.is_set():
            handler.wfile.write(b"10000\r\n%s\r\n" % bytes(1 << 16))

    registry.manifests[NAME] = flood
    failed = failure(process.do(manifest_order(registry)))
    assert f"{registry.host} answers with more than {4 << 20} bytes" in failed.error


def test_proxy_of_the_environment_is_used_but_not_for_this_machine(registry: MisbehavingRegistry) -> None:
    registry.manifests[NAME] = MANIFEST
    away = Repository(host="models.invalid", path="library/tiny", plain=True)
    with sender(settings(), http_proxy=f"http://127.0.0.1:{registry.port}") as process:
        process.do(manifest_order(registry, repository=away))
        assert registry.seen[-1].path == "http://models.invalid/v2/library/tiny/manifests/latest"
        assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]
        assert registry.seen[-1].path == "/v2/library/tiny/manifests/latest"


def test_answer_in_json_stays_json(registry: MisbehavingRegistry, process: Sender) -> None:
    data = json.dumps({"text": "é\0\U0001f600" * 1000}).encode()
    registry.manifests[NAME] = data
    assert process.do(manifest_order(registry)) == [Finished(1, data)]
