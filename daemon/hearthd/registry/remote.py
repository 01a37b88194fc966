"""Where a model name leads: the repository of a registry."""

from __future__ import annotations

from hearthd.errors import BadRequest
from hearthd.store.names import ModelName
from hearthd.transfer.messages import Repository

SCHEMES = ("https", "http")


def repository_of(name: ModelName, insecure: bool) -> Repository:
    """The repository of `name`; with `insecure` it is asked by plain HTTP.

    Raises BadRequest for `http://` without `insecure`, and for other schemes.
    """
    if name.scheme not in SCHEMES:
        raise BadRequest(f"{name.scheme}://{name.full}: a registry is reached by https:// or http://")
    if name.scheme == "http" and not insecure:
        raise BadRequest("insecure protocol http; set insecure where that is wanted")
    return Repository(host=name.host, path=f"{name.namespace}/{name.model}", plain=insecure, insecure=insecure)
