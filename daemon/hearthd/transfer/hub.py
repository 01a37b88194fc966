"""`python -m hearthd.transfer.hub`: asks Hugging Face's hub once what a repository holds, through huggingface_hub.

A process of its own, because the library takes as much memory as the daemon: a Question on standard input, an
Outcome on standard output, both JSON.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import msgspec

from hearthd.transfer.messages import FAILED, NOT_FOUND, UNAUTHORIZED, Listed, Listing

MAX_FILES = 20_000
MAX_QUESTION_BYTES = 1 << 20

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A repository and how to reach it."""

    endpoint: str
    host: str  # as in the model's name
    repository: str
    revision: str
    token: str  # "": nobody's
    hint: str  # what to do where it is not shown
    agent: str
    timeout_s: float


class Trouble(msgspec.Struct, frozen=True, kw_only=True, tag="trouble"):
    """Why there is no listing."""

    error: str  # the sentence for the client
    reason: str = FAILED  # as in messages.Failed
    status: int = 0  # of the hub's HTTP answer; 0: there was none
    passing: bool = False  # whether another try may help


Outcome = Listing | Trouble


class Unlisted(Exception):
    """`args[0]` is the Trouble."""


def main() -> int:
    """Answers the question on standard input; returns the exit status."""
    question = msgspec.json.decode(sys.stdin.buffer.read(MAX_QUESTION_BYTES), type=Question)
    _prepare_environment(question)
    outcome: Outcome
    try:
        outcome = listing(question)
    except Unlisted as error:
        outcome = error.args[0]
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    sys.stdout.buffer.flush()
    return 0


def _prepare_environment(question: Question) -> None:
    """What the library reads when it is imported. Proxies are never asked for this machine."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    local = "localhost,127.0.0.1,::1"
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = f"{os.environ[name]},{local}" if os.environ.get(name) else local


def listing(question: Question) -> Listing:
    """What the repository holds. Raises Unlisted."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        text = "repositories without GGUF files are listed by huggingface_hub, which is not installed"
        raise Unlisted(Trouble(error=f"{text}; pip install 'huggingface-hub>=0.34'")) from error
    hub = HfApi(endpoint=question.endpoint, token=question.token or False, user_agent=question.agent)
    try:
        found = hub.model_info(
            question.repository, revision=question.revision, files_metadata=True, timeout=question.timeout_s
        )
        if found.gated:  # its files are listed for everybody
            hub.auth_check(found.id)
    except Exception as error:  # of the library, of what it uses for HTTP, and for answers that are no listing
        raise Unlisted(_trouble(question, error)) from error
    return _listing(question, found)


def _listing(question: Question, found: Any) -> Listing:
    siblings = found.siblings or []
    if len(siblings) > MAX_FILES:
        raise Unlisted(_told(question, f"has {len(siblings)} files, more than {MAX_FILES}: too many for a model"))
    if not _COMMIT.fullmatch(str(found.sha)) or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(found.id), re.ASCII):
        raise Unlisted(_told(question, f"is listed by {question.host} without its name or commit"))
    files = (_listed(question, sibling) for sibling in siblings)
    return Listing(repository=found.id, commit=found.sha, files=tuple(files))


def _listed(question: Question, sibling: Any) -> Listed:
    name, lfs = str(sibling.rfilename), sibling.lfs
    size = lfs.size if lfs else sibling.size
    sha256, blob_id = str(lfs.sha256) if lfs else "", "" if lfs else str(sibling.blob_id)
    is_sound = _SHA256.fullmatch(sha256) if lfs else _COMMIT.fullmatch(blob_id)
    if not is_sound or not isinstance(size, int) or not 0 <= size < 1 << 62:
        raise Unlisted(_told(question, f"is listed by {question.host} without size and digest of {ascii(name)[:200]}"))
    return Listed(name=name, size=size, sha256=sha256, blob_id=blob_id)


def _told(question: Question, what: str, **fields: Any) -> Trouble:
    return Trouble(error=f"{question.host}/{question.repository} {what}", **fields)


def _trouble(question: Question, error: Exception) -> Trouble:
    from huggingface_hub import errors

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0) or 0
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _told(question, "cannot be listed: HF_HUB_OFFLINE is set")
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return _told(question, question.hint, reason=UNAUTHORIZED, status=status)
    if isinstance(error, errors.DisabledRepoError):
        return _told(question, "was disabled by the hub", reason=NOT_FOUND, status=status)
    if isinstance(error, errors.RevisionNotFoundError):
        return _told(
            question, f"has no quantization, branch, tag or commit {question.revision}", reason=NOT_FOUND, status=status
        )
    if status in (401, 404):
        return _told(question, question.hint, reason=NOT_FOUND if status == 404 else UNAUTHORIZED, status=status)
    if status == 429:
        return _told(question, _limited(response), status=status)
    return _other_trouble(question, error, status)


def _limited(response: Any) -> str:
    after = str(response.headers.get("Retry-After", ""))
    when = f"in {after} s" if after.isdecimal() and len(after) < 6 else "later"
    return f"cannot be listed: the hub limits requests (429); try again {when}, or set HF_TOKEN for more of them"


def _other_trouble(question: Question, error: Exception, status: int) -> Trouble:
    if status:
        return _told(
            question, f"cannot be listed: {question.host} answers {status}", status=status, passing=status >= 500
        )
    is_httpx = type(error).__module__.partition(".")[0] in ("httpx", "httpcore")
    if is_httpx or (isinstance(error, OSError) and not isinstance(error, ValueError)):  # requests' are OSErrors
        return _told(
            question, f"cannot be listed: {question.endpoint} is not reached ({type(error).__name__})", passing=True
        )
    what = f"cannot be listed: the answer of {question.endpoint} is not understood ({type(error).__name__})"
    return _told(question, what)


if __name__ == "__main__":
    raise SystemExit(main())
