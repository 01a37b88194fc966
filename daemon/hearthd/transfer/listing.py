"""What a repository on Hugging Face's hub holds, asked by a process of its own: see hub.py."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress

import msgspec

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.http import Http, user_agent
from hearthd.transfer.hub import Outcome, Question, Trouble
from hearthd.transfer.messages import FetchListing, Settings
from hearthd.transfer.registry import hub_hint, hub_token, hub_url
from hearthd.transfer.retry import Retries

MODULE = ("-m", "hearthd.transfer.hub")
MAX_RETRIES = 2  # somebody waits for the answer
TIMEOUT_S = 20.0  # of one request

_decoder: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)


async def fetch_listing(http: Http, settings: Settings, job: FetchListing, report: Callable[[int, int], None]) -> bytes:
    """The Listing as JSON. Raises TransferError."""
    question = Question(
        endpoint=hub_url(job.repository),
        host=job.repository.host,
        repository=job.repository.path,
        revision=job.revision,
        token=hub_token(job.repository),
        hint=hub_hint(job.repository),
        agent=user_agent(settings.version),
        timeout_s=min(TIMEOUT_S, settings.stall_timeout_s),
    )
    retries = Retries(settings, min(MAX_RETRIES, settings.num_retries))
    while True:
        try:
            return await _ask(question)
        except Passing as error:
            await retries.pause(error)


async def _ask(question: Question) -> bytes:
    process = await asyncio.create_subprocess_exec(sys.executable, *MODULE, stdin=PIPE, stdout=PIPE)
    try:
        answer, _ = await process.communicate(msgspec.json.encode(question))
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
    try:
        outcome = _decoder.decode(answer)
    except msgspec.DecodeError as error:
        sentence = f"the list of files of {question.repository} was not fetched: the process that asks ended"
        raise TransferError(f"{sentence} with status {process.returncode}; the log has its last words") from error
    if isinstance(outcome, Trouble):
        kind = Passing if outcome.passing else TransferError
        raise kind(outcome.error, outcome.reason, outcome.status)
    return answer
