"""How blobs and manifests reach a registry: the push of the OCI distribution specification, with Ollama's additions.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import aiohttp
from aiohttp import hdrs
from yarl import URL

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.http import REDIRECTS, Http, complaint, redirect_target
from hearthd.transfer.messages import MISMATCH, UNAUTHORIZED, SendBlob, SendManifest, Settings
from hearthd.transfer.outgoing import Outgoing, Part
from hearthd.transfer.retry import Retries
from hearthd.transfer.upload_answer import (
    HINT,
    check_digest,
    expect_success,
    expect_upload,
    part_bytes,
    taken_bytes,
    upload_location,
)
from hearthd.transfer.upload_state import UploadState, load_state, save_state

log = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 900.0  # a registry may copy and hash the whole blob before it answers
OCTETS: dict[str, str] = {hdrs.CONTENT_TYPE: "application/octet-stream"}
EMPTY: dict[str, str] = {hdrs.CONTENT_LENGTH: "0"}
ELSEWHERE = (307, 308)  # the part goes to a store behind the registry

Report = Callable[[int, int], None]


async def send_blob(http: Http, settings: Settings, job: SendBlob, report: Report) -> None:
    """Upload `job.path` unless the registry has the blob; `report` hears completed and total bytes.

    An interrupted upload goes on where the registry says that it is. Raises TransferError.
    """
    what = f"push blob {job.digest[7:19]} to {job.repository.host}/{job.repository.path}"
    retries = Retries(settings)
    best = 0
    with Outgoing(job.path, job.size, http.rate, settings.stall_timeout_s) as file:
        upload = _Upload(http, settings, job, file, report)
        while True:
            try:
                await upload.run()
                return
            except Passing as error:
                gained, best = upload.num_taken > best, max(best, upload.num_taken)
                await retries.pause(_passing(error, what, "; a new push tries to go on from there"), gained=gained)
            except TransferError as error:
                raise _lasting(error, what) from error


async def send_manifest(http: Http, settings: Settings, job: SendManifest, report: Report) -> None:
    """Upload the manifest. Raises TransferError, also where the registry stored something else."""
    what = f"push manifest {job.reference} to {job.repository.host}/{job.repository.path}"
    retries = Retries(settings)
    while True:
        try:
            await _send_manifest(http, job)
            return
        except Passing as error:
            await retries.pause(_passing(error, what))
        except TransferError as error:
            raise _lasting(error, what) from error


async def _send_manifest(http: Http, job: SendManifest) -> None:
    where = f"manifests/{job.reference}"
    headers: dict[str, str] = {hdrs.CONTENT_TYPE: job.media_type}
    async with http.request(
        "PUT", job.repository, where, headers=headers, data=job.data, timeout_s=COMMIT_TIMEOUT_S
    ) as answer:
        await expect_success(answer, job.repository)
        check_digest(answer, "sha256:" + hashlib.sha256(job.data).hexdigest())


class _Upload:
    """One blob on its way; `run` is repeated after failures of the moment."""

    def __init__(self, http: Http, settings: Settings, job: SendBlob, file: Outgoing, report: Report) -> None:
        self.num_taken = 0  # bytes, by the registry, at most so far
        self._http, self._settings, self._job, self._file, self._report = http, settings, job, file, report
        self._state = load_state(job)
        self._doubted = False  # the registry once said that what it has is not the blob

    async def run(self) -> None:
        """From whatever point the upload is at to its end. Raises TransferError."""
        if not await self._is_there():
            await self._resume()
            state = self._state or await self._begin()
            if state is not None:
                await self._send(state)
        self._forget()
        self._report(self._job.size, self._job.size)

    async def _is_there(self) -> bool:
        async with self._request("HEAD", f"blobs/{self._job.digest}") as answer:
            if answer.status not in (404, *REDIRECTS):
                await expect_success(answer, self._job.repository)
            return answer.status != 404

    async def _resume(self) -> None:
        """Sets the interrupted upload to where the registry is; forgets it where the registry did."""
        state = self._state
        if state is None:
            return
        async with self._request("GET", state.location) as answer:
            if answer.status in (401, 403, 408, 425, 429) or answer.status >= 500:
                await expect_success(answer, self._job.repository)
            offset = state.offset if state.sums else taken_bytes(answer)
            if answer.status >= 300 or offset is None or offset > state.size:
                self._forget()
            else:
                self._take(state, offset, upload_location(answer, self._job.repository))

    async def _begin(self) -> UploadState | None:
        """A new upload; None where the registry has the blob now, from the repository to mount it from."""
        if self._job.mount_from:
            mount = f"mount={quote(self._job.digest, safe='')}&from={quote(self._job.mount_from, safe='')}"
            try:
                return await self._post(f"blobs/uploads/?{mount}")
            except Passing:
                raise
            except TransferError as error:
                log.info("no mount: %s", error)
        return await self._post("blobs/uploads/")

    async def _post(self, where: str) -> UploadState | None:
        job = self._job
        async with self._request("POST", where, headers=EMPTY) as answer:
            await expect_success(answer, job.repository)
            if answer.status == 201:
                return None
            location = upload_location(answer, job.repository)
            if not location:
                raise TransferError("the registry begins an upload, but does not say where it goes on")
            self._state = UploadState(
                host=job.repository.host,
                path=job.repository.path,
                digest=job.digest,
                size=job.size,
                location=location,
                part_bytes=part_bytes(answer),
            )
            return self._state

    async def _send(self, state: UploadState) -> None:
        self._report(state.offset, state.size)
        while state.offset < state.size:
            await self._send_part(state)
        await self._commit(state)

    async def _send_part(self, state: UploadState) -> None:
        part = self._part(state)
        headers: dict[str, str] = {hdrs.CONTENT_RANGE: f"{part.offset}-{part.end - 1}", "X-Redirect-Uploads": "1"}
        async with self._sending("PATCH", state.location, part, headers) as answer:
            location = upload_location(answer, self._job.repository)
            target = redirect_target(answer) if answer.status in ELSEWHERE else None
            if target is None:
                await expect_upload(answer, self._job.repository)
                taken = taken_bytes(answer)
        if target is not None:
            await self._send_elsewhere(state, target, location)
        elif taken is None or taken <= part.offset:  # some always say 0-0
            self._take(state, part.end, location)
        elif taken > part.end:
            self._forget()
            raise Passing("the registry has more bytes than were sent; the upload begins anew")
        else:
            self._take(state, taken, location)

    async def _send_elsewhere(self, state: UploadState, target: URL, location: str) -> None:
        """The part as an object of its own, to a signed address."""
        part = self._part(state, summed=True)
        retries = Retries(self._settings)
        while not part.md5:
            try:
                async with self._sending("PUT", target, part, {}) as answer:
                    await expect_success(answer, self._job.repository)
            except Passing as error:
                part.md5 = ""
                await retries.pause(error)
        state.sums.append(part.md5)
        self._take(state, part.end, location)

    async def _commit(self, state: UploadState) -> None:
        async with self._request(
            "PUT", _committing(state), headers=OCTETS | EMPTY, timeout_s=COMMIT_TIMEOUT_S
        ) as answer:
            if answer.status != 400:
                await expect_upload(answer, self._job.repository)
                check_digest(answer, self._job.digest)
                return
            said = await complaint(answer)
        await self._find_fault(said)

    async def _find_fault(self, said: str) -> None:
        """Raises what is to be done about a blob that the registry refuses at the end."""
        self._forget()
        if await self._file.sha256() != self._job.digest:
            raise TransferError(
                f"{self._job.path} does not hold {self._job.digest}; pull or create the model again",
                MISMATCH,
                400,
            )
        if self._doubted:
            raise TransferError(f"400: {said}", status=400)
        self._doubted = True
        raise Passing(f"400: {said}", status=400)

    def _part(self, state: UploadState, *, summed: bool = False) -> Part:
        length = min(state.part_bytes, state.size - state.offset)
        return self._file.part(state.offset, length, lambda offset: self._report(offset, state.size), summed=summed)

    @asynccontextmanager
    async def _sending(
        self, method: str, where: str | URL, part: Part, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        length: dict[str, str] = {hdrs.CONTENT_LENGTH: str(part.length)}
        async with (
            part.sending(self._job.repository.host),
            self._request(method, where, headers=OCTETS | length | headers, data=part) as answer,
        ):
            yield answer

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        where: str | URL,
        *,
        headers: Mapping[str, str] | None = None,
        data: Part | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._http.request(
            method, self._job.repository, where, headers=headers, data=data, timeout_s=timeout_s
        ) as answer:
            yield answer

    def _take(self, state: UploadState, offset: int, location: str) -> None:
        """The registry has everything before `offset`, and wants the rest at `location`."""
        state.offset, state.location = offset, location or state.location
        self.num_taken = max(self.num_taken, offset)
        try:
            save_state(Path(self._job.state), state)
        except OSError as error:
            log.warning("an interrupted upload would begin anew: cannot write %s: %s", self._job.state, error.strerror)

    def _forget(self) -> None:
        self._state = None
        with suppress(OSError):
            Path(self._job.state).unlink(missing_ok=True)


def _committing(state: UploadState) -> str:
    """Where the upload is ended: its address with the digest and, for parts that went elsewhere, their common sum."""
    query = f"digest={quote(state.digest, safe='')}"
    if state.sums:
        sums = hashlib.md5(b"".join(bytes.fromhex(each) for each in state.sums), usedforsecurity=False)
        query += f"&etag={sums.hexdigest()}-{len(state.sums)}"
    return f"{state.location}{'&' if '?' in state.location else '?'}{query}"


def _passing(error: Passing, what: str, hint: str = "") -> Passing:
    return Passing(f"{what}: {error}{hint}", error.reason, error.status, after_s=error.after_s)


def _lasting(error: TransferError, what: str) -> TransferError:
    text = f"{what}: {error}"
    if error.reason == UNAUTHORIZED:
        text = f"{error}".removesuffix(f"; {HINT}") + f"; {HINT}"
    return TransferError(text, error.reason, error.status)
