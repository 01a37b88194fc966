"""What crosses between the daemon and its transfer process: one JSON object a line.

The daemon writes jobs to the process's standard input, each with an `id` of its own, and Drop to give one
up. The process answers every job with any number of Moved and then exactly one Finished or Failed, on its
standard output. When its input ends it drops all jobs and leaves; whatever was fetched stays and is
resumed by the next one.
"""

from __future__ import annotations

import msgspec

MAX_LINE_BYTES = 16 << 20  # a manifest in base64 and what surrounds it


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the process works; the single argument of `python -m hearthd.transfer`, as JSON."""

    version: str  # of Hearth, for the User-Agent
    key: str = ""  # path of the OpenSSH ed25519 private key; "": anonymous
    credentials: str = ""  # path of a Docker config.json with "auths"; "": none
    max_streams: int = 4  # parallel ranged requests a blob
    max_rate: int = 0  # bytes a second of all jobs together; 0: unbounded
    stall_timeout_s: float = 30.0  # a connection without bytes for so long is made anew
    backoff_s: float = 1.0  # the first pause after a failure; each further one is twice as long
    num_retries: int = 6  # failures in a row without a byte gained, before a job fails


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """A repository of a registry."""

    host: str  # "registry.ollama.ai", "hf.co", "localhost:5000"
    path: str  # "library/smollm2"
    plain: bool = False  # http instead of https; only ever set where the caller allowed it
    insecure: bool = False  # certificates are not checked


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in one commit of a repository on Hugging Face's hub."""

    commit: str  # 40 hexadecimal digits
    name: str  # "onnx/model.onnx"


class FetchManifest(msgspec.Struct, frozen=True, kw_only=True, tag="fetch_manifest"):
    """Finished.data is the manifest, byte for byte."""

    id: int
    repository: Repository
    reference: str  # a tag


class FetchBlob(msgspec.Struct, frozen=True, kw_only=True, tag="fetch_blob"):
    """Fetch a blob into `directory`, under `sha256-<hex>` once it is complete, verified and flushed.

    Meanwhile it is `sha256-<hex>-partial`, with a journal of what is finished beside it. A blob that is
    here already is Finished at once.
    """

    id: int
    repository: Repository
    digest: str  # "sha256:<64 lower-case hex digits>"
    size: int  # bytes, as the manifest says
    directory: str
    file: HubFile | None = None  # that the blob is; None: a blob of the registry


class FetchFile(msgspec.Struct, frozen=True, kw_only=True, tag="fetch_file"):
    """Fetch a small file, of which git's digest alone is known, into the blobs of `directory`.

    Finished.data is its digest, "sha256:<hex>". What was fetched before a failure is fetched again.
    """

    id: int
    repository: Repository
    file: HubFile
    blob_id: str  # sha1 of "blob <size>\0" and the content, 40 hexadecimal digits
    size: int  # bytes
    directory: str


class FetchListing(msgspec.Struct, frozen=True, kw_only=True, tag="fetch_listing"):
    """Finished.data is a Listing of a repository on Hugging Face's hub, as JSON."""

    id: int
    repository: Repository
    revision: str  # branch, tag or commit


class SendBlob(msgspec.Struct, frozen=True, kw_only=True, tag="send_blob"):
    """Upload the file `path` unless the registry has the blob. The state of an upload is kept in `state`."""

    id: int
    repository: Repository
    digest: str
    size: int
    path: str
    state: str  # path of a file, written while an upload can be resumed, removed at its end
    mount_from: str = ""  # a repository of the same registry that may have it: "library/smollm2"


class SendManifest(msgspec.Struct, frozen=True, kw_only=True, tag="send_manifest"):
    """Upload the manifest. Its blobs are there."""

    id: int
    repository: Repository
    reference: str
    data: bytes
    media_type: str


class MakeKey(msgspec.Struct, frozen=True, kw_only=True, tag="make_key"):
    """Make Settings.key where it is missing. Finished.data is the public key in OpenSSH's form."""

    id: int


class Drop(msgspec.Struct, frozen=True, kw_only=True, tag="drop"):
    """Give the job up; it is answered by Failed with reason DROPPED. What was fetched stays."""

    id: int


Job = FetchManifest | FetchBlob | FetchFile | FetchListing | SendBlob | SendManifest | MakeKey
Order = Job | Drop


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """How far a job is; at most every 60 ms a job."""

    id: int
    completed: int  # bytes
    total: int  # bytes


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """A job's good end."""

    id: int
    data: bytes = b""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A job's bad end."""

    id: int
    error: str  # the sentence for the client
    reason: str = "failed"  # one of the words below
    status: int = 0  # of the registry's HTTP answer; 0: there was none


Answer = Moved | Finished | Failed


class Listed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a Listing. It has one of the two digests."""

    name: str
    size: int  # bytes
    sha256: str = ""  # of a large file: 64 hexadecimal digits
    blob_id: str = ""  # of a small one: git's sha1


class Listing(msgspec.Struct, frozen=True, kw_only=True, tag="listing"):
    """What a repository on the hub holds."""

    repository: str  # its present name: "user/model"
    commit: str
    files: tuple[Listed, ...]


# reasons of Failed
FAILED = "failed"
NOT_FOUND = "not_found"  # the registry says 404
UNAUTHORIZED = "unauthorized"  # 401 or 403, also after authentication
MISMATCH = "mismatch"  # content is not what its digest promises; what was fetched is gone
NO_SPACE = "no_space"  # the disk is full; what was fetched is gone
DROPPED = "dropped"

_order_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_encoder = msgspec.json.Encoder()


def encode(message: Order | Answer) -> bytes:
    """The message as a line, `\\n` included."""
    return _encoder.encode(message) + b"\n"


def decode_order(line: bytes) -> Order:
    """The order on `line`. Raises msgspec.DecodeError."""
    return _order_decoder.decode(line)


def decode_answer(line: bytes) -> Answer:
    """The answer on `line`. Raises msgspec.DecodeError."""
    return _answer_decoder.decode(line)
