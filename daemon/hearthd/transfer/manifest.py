"""Fetching a manifest."""

from __future__ import annotations

from collections.abc import Callable

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.http import Http, read_bounded, refusal
from hearthd.transfer.messages import NOT_FOUND, FetchManifest, Settings
from hearthd.transfer.retry import Retries

MAX_MANIFEST_BYTES = 4 << 20
MAX_RETRIES = 2  # somebody waits for the answer
ACCEPT = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json;q=0.9"
WHAT = "pull model manifest"


async def fetch_manifest(
    http: Http, settings: Settings, job: FetchManifest, report: Callable[[int, int], None]
) -> bytes:
    """The manifest, byte for byte. Raises TransferError."""
    retries = Retries(settings, min(MAX_RETRIES, settings.num_retries))
    while True:
        try:
            return await _fetch(http, job)
        except Passing as error:
            await retries.pause(error)


async def _fetch(http: Http, job: FetchManifest) -> bytes:
    try:
        where = f"manifests/{job.reference}"
        async with http.get(job.repository, where, headers={"Accept": ACCEPT}) as response:
            if response.status == 404:
                raise TransferError(f"{WHAT}: file does not exist", NOT_FOUND, 404)
            if response.status >= 400:
                raise await refusal(response, job.repository, WHAT)
            if response.status != 200:
                raise TransferError(f"{WHAT}: {response.status}: not an answer to a request for a manifest")
            return await read_bounded(response, MAX_MANIFEST_BYTES)
    except TransferError as error:
        raise _named(error) from error


def _named(error: TransferError) -> TransferError:
    """The same failure, its sentence begun with what was tried."""
    if str(error).startswith(WHAT):
        return error
    text = f"{WHAT}: {error}"
    if isinstance(error, Passing):
        return Passing(text, error.reason, error.status, after_s=error.after_s)
    return TransferError(text, error.reason, error.status)
