from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from hearthd.errors import BadRequest, ExportFailed, StoreError, TransferFailed
from hearthd.registry.progress import Progress
from hearthd.registry.pull import pull
from hearthd.registry.transfers import Transfers
from hearthd.store import media, names
from hearthd.store.store import ModelStore, StoredModel, open_store
from hearthd.transfer.messages import Repository
from tests.registries.docker import DockerRegistry, docker_registry
from tests.registries.models import FILLER, publish
from tests.registries.wire import all_of, digest_at, name_at, pulled, pushed, statuses, with_transfers


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return open_store(tmp_path / "models")


def check_blobs(store: ModelStore, model: StoredModel) -> None:
    """Every blob of the model is what its digest says."""
    for part in model.manifest.needed:
        assert store.blobs.put(store.blobs.path(part.digest).read_bytes()) == part.digest


def leftovers(store: ModelStore) -> list[str]:
    return [path.name for path in store.blobs.strangers()] + [
        path.name for path in store.root.rglob(".tmp-*")
    ]  # fmt: skip


# --- what a pull brings ---------------------------------------------------------------------------


def test_a_pulled_model_is_whole_verified_and_converted(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    manifest = publish(registry, "library/whole", tiny_gguf, [(media.SYSTEM, b"Be brief."), (FILLER, b"?")])
    steps = pulled(store, name_at(registry, "library/whole"))
    layers = [f"pulling {part.digest[7:19]}" for part in (*manifest.layers, manifest.config)]
    seen = statuses(steps)
    conversion = [status for status in seen if status.startswith("converting to ONNX")]
    assert conversion
    assert seen == [
        "pulling manifest", *layers, "verifying sha256 digest", *conversion, "writing manifest", "success",
    ]  # fmt: skip
    for part in manifest.parts:
        last = [step for step in steps if step.digest == part.digest and step.status.startswith("pulling")][-1]
        assert (last.completed, last.total) == (part.size, part.size)
    model = store.resolve(name_at(registry, "library/whole"))
    assert model.digest == digest_at(registry, "library/whole")
    check_blobs(store, model)
    assert len(store.variants(manifest.layers[0].digest)) == 1
    assert leftovers(store) == []


def test_a_second_pull_fetches_no_blob_again(registry: DockerRegistry, store: ModelStore, tiny_gguf: Path) -> None:
    publish(registry, "library/twice", tiny_gguf)
    pulled(store, name_at(registry, "library/twice"))
    before = registry.requests("GET", "library/twice/blobs")
    steps = pulled(store, name_at(registry, "library/twice"))
    assert registry.requests("GET", "library/twice/blobs") == before
    assert steps[-1].status == "success"
    assert all(step.completed == step.total for step in steps if step.digest)


def test_a_newer_model_replaces_the_older_and_what_only_that_used(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    name = name_at(registry, "library/newer")
    old = publish(registry, "library/newer", tiny_gguf, [(media.SYSTEM, b"old words")])
    pulled(store, name)
    publish(registry, "library/newer", tiny_gguf, [(media.SYSTEM, b"new words")])
    assert statuses(pulled(store, name))[-2:] == ["removing unused layers", "success"]
    assert store.contents(store.resolve(name)).system == "new words"
    assert not store.blobs.has(old.layers[1].digest)
    assert store.blobs.has(old.layers[0].digest)


def test_with_noprune_old_layers_stay(registry: DockerRegistry, store: ModelStore, tiny_gguf: Path) -> None:
    name = name_at(registry, "library/kept")
    old = publish(registry, "library/kept", tiny_gguf, [(media.SYSTEM, b"old words")])
    pulled(store, name)
    publish(registry, "library/kept", tiny_gguf, [(media.SYSTEM, b"new words")])
    assert "removing unused layers" not in statuses(pulled(store, name, noprune=True))
    assert store.blobs.has(old.layers[1].digest)


def test_callers_of_the_same_model_share_its_download(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    manifest = publish(registry, "library/shared", tiny_gguf, [(FILLER, os.urandom(24 << 20))])
    name = name_at(registry, "library/shared")

    async def three(transfers: Transfers) -> list[list[Progress]]:
        return await asyncio.gather(*(all_of(pull(store, transfers, name, insecure=True)) for _ in range(3)))

    filler = manifest.layers[1]
    results = with_transfers(three, max_rate=24 << 20)
    assert [steps[-1].status for steps in results] == ["success"] * 3
    for steps in results:
        partly = [step for step in steps if step.digest == filler.digest and 0 < step.completed < filler.size]
        assert partly, "a caller saw no progress of the shared download"
    sent = served_bytes(registry, filler.digest)
    assert sent == filler.size, "the blob went over the wire more than once"


def served_bytes(registry: DockerRegistry, digest: str) -> int:
    """Bytes of the blob that the registry sent, as its access log says."""
    return sum(
        int(line.split('" ')[1].split()[1])
        for line in registry.log.splitlines()
        if '"GET /v2/' in line and f"/blobs/{digest}" in line
    )


# --- leaving and coming back ----------------------------------------------------------------------


def test_when_the_last_caller_leaves_the_download_stops_and_the_next_resumes_it(
    registry: DockerRegistry, store: ModelStore
) -> None:
    size = 48 << 20
    manifest = publish(registry, "library/left", None, [(FILLER, os.urandom(size))])
    name = name_at(registry, "library/left")
    (filler,) = manifest.layers

    async def leave_in_the_middle(transfers: Transfers) -> None:
        async with aclosing(pull(store, transfers, name, insecure=True)) as steps:
            async for step in steps:
                if step.digest == filler.digest and step.completed > size // 2:
                    return

    with_transfers(leave_in_the_middle, max_rate=32 << 20)
    assert store.blobs.partial_bytes(filler.digest) > size // 4
    assert store.models() == []
    before = served_bytes(registry, filler.digest)
    steps = pulled(store, name)
    assert steps[-1].status == "success"
    assert served_bytes(registry, filler.digest) - before < size * 3 // 4
    assert leftovers(store) == []


def test_the_transfer_process_killed_in_the_middle_is_an_error_and_the_next_pull_resumes(
    registry: DockerRegistry, store: ModelStore
) -> None:
    size = 48 << 20
    manifest = publish(registry, "library/killed", None, [(FILLER, os.urandom(size))])
    name = name_at(registry, "library/killed")
    (filler,) = manifest.layers

    async def kill_and_resume(transfers: Transfers) -> list[Progress]:
        with pytest.raises(TransferFailed, match="ended by signal 9"):
            async for step in pull(store, transfers, name, insecure=True):
                if step.digest == filler.digest and step.completed > size // 2:
                    kill_child()
        return await all_of(pull(store, transfers, name, insecure=True))

    steps = with_transfers(kill_and_resume, max_rate=32 << 20)
    resumed_at = next(step.completed for step in steps if step.digest == filler.digest)
    assert resumed_at > 0  # how much the disk had taken by then is the disk's affair
    check_blobs(store, store.resolve(name))


def kill_child() -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    (child,) = (int(pid) for pid in children if b"hearthd.transfer" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(child, 9)


# --- converted models over the wire ---------------------------------------------------------------


def test_a_model_pushed_with_its_variant_is_pulled_ready_to_run(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path, tmp_path: Path
) -> None:
    publish(registry, "library/plain", tiny_gguf, [(media.SYSTEM, b"Hi.")])
    pulled(store, name_at(registry, "library/plain"))
    ready = name_at(registry, "library/ready")
    store.copy(name_at(registry, "library/plain"), ready)
    assert pushed(store, ready, with_variants=True)[-1].status == "success"

    device = open_store(tmp_path / "device")
    steps = pulled(device, ready)
    assert not any("converting" in status for status in statuses(steps))
    assert "using the converted model of the registry" in statuses(steps)
    model = device.resolve(ready)
    (ours,), (theirs,) = device.variants(str(model.source)), store.variants(str(model.source))
    assert ours[1] == theirs[1]
    assert (ours[0] / ours[1].graph).read_bytes() == (theirs[0] / theirs[1].graph).read_bytes()
    assert device.contents(model).model_path is not None


def test_without_its_source_a_model_is_small_and_runs_from_its_variant(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path, tmp_path: Path
) -> None:
    manifest = publish(registry, "library/heavy", tiny_gguf, [(media.SYSTEM, b"Hi.")])
    pulled(store, name_at(registry, "library/heavy"))
    light = name_at(registry, "library/light")
    store.copy(name_at(registry, "library/heavy"), light)
    pushed(store, light, with_variants=True, with_source=False)

    device = open_store(tmp_path / "device")
    pulled(device, light)
    model = device.resolve(light)
    assert model.manifest.of(media.MODEL) == ()
    assert not device.blobs.has(manifest.layers[0].digest)
    assert model.source == manifest.layers[0].digest
    contents = device.contents(model)
    assert (contents.model_path, contents.system) == (None, "Hi.")
    assert len(device.variants(str(model.source))) == 1
    # and it travels on as it came
    onward = name_at(registry, "library/onward")
    device.copy(light, onward)
    pushed(device, onward)
    assert digest_at(registry, "library/onward") == digest_at(registry, "library/light")


def test_a_model_for_other_devices_only_is_refused_before_its_layers_are_fetched(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path, tmp_path: Path
) -> None:
    publish(registry, "library/foreign", tiny_gguf)
    name = name_at(registry, "library/foreign")
    pulled(store, name)
    pushed(store, name, with_variants=True, with_source=False)
    text = (registry.manifest("library/foreign", "latest") or b"").decode()
    foreign = text.replace('"hearth.provider":"cpu"', '"hearth.provider":"npu"').encode()
    assert foreign.decode() != text

    async def put(transfers: Transfers) -> None:
        place = Repository(host=registry.host, path="library/foreign", plain=True)
        await transfers.send_manifest(place, "latest", foreign, media.MANIFEST)

    with_transfers(put)
    device = open_store(tmp_path / "device")
    with pytest.raises(TransferFailed, match="converted for npu only"):
        pulled(device, name)
    assert device.blobs.digests() == []


# --- what is refused ------------------------------------------------------------------------------


def test_a_model_that_is_not_there_is_told_as_clients_know_it(registry: DockerRegistry, store: ModelStore) -> None:
    with pytest.raises(TransferFailed) as caught:
        pulled(store, name_at(registry, "library/nowhere"))
    assert str(caught.value) == "pull model manifest: file does not exist"


def test_plain_http_wants_insecure(registry: DockerRegistry, store: ModelStore) -> None:
    name = names.parse(f"http://{registry.host}/library/whole")
    with pytest.raises(BadRequest, match="insecure protocol http"):
        with_transfers(lambda transfers: all_of(pull(store, transfers, name)))


def test_what_cannot_be_converted_leaves_no_model_and_what_was_fetched(
    registry: DockerRegistry, store: ModelStore, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    manifest = publish(registry, "library/broken", broken)
    with pytest.raises(ExportFailed):
        pulled(store, name_at(registry, "library/broken"))
    assert store.models() == []
    assert store.blobs.has(manifest.layers[0].digest)


def test_a_model_that_cannot_fit_is_refused_before_the_first_byte(
    registry: DockerRegistry, store: ModelStore, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or os.geteuid()
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=80m", "none", small]).returncode
    ):
        pytest.skip("mounting a tmpfs needs root")
    try:
        manifest = publish(registry, "library/large", None, [(FILLER, os.urandom(40 << 20))])
        with pytest.raises(StoreError, match=r"does not fit.*make room"):
            pulled(open_store(small / "models"), name_at(registry, "library/large"))
        assert served_bytes(registry, manifest.layers[0].digest) == 0
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_read_only_store_takes_no_model(registry: DockerRegistry, store: ModelStore, tmp_path: Path) -> None:
    frozen = ModelStore(store.root, variants=tmp_path / "variants", writable=False)
    with pytest.raises(StoreError, match="read-only"):
        pulled(frozen, name_at(registry, "library/whole"))


def test_nobody_listens_is_told_with_the_host(store: ModelStore) -> None:
    with pytest.raises(TransferFailed, match="localhost:1"):
        with_transfers(
            lambda transfers: all_of(pull(store, transfers, names.parse("localhost:1/library/x"), insecure=True)),
            num_retries=1,
        )
