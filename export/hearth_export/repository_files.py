"""What the files of a Hugging Face repository say of its tokens: which are special, what is put around a text, how a
conversation is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from hearth_export.errors import BadCheckpoint

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
GENERATION = "generation_config.json"
MODEL_CONFIG = "config.json"
CHAT_TEMPLATE = "chat_template.jinja"
MAX_TEXT = 4096  # characters of a token; a chat template may be longer

# transformers' classes that put tokens around a text whatever tokenizer.json says, and what they add unless told
ADDING_CLASSES = {
    "LlamaTokenizer": (True, False),
    "CodeLlamaTokenizer": (True, False),
    "GemmaTokenizer": (True, False),
    "CohereTokenizer": (True, False),
    "GPTNeoXTokenizer": (False, False),
}


class Files(Protocol):
    """A repository: a checkpoint of Hugging Face."""

    @property
    def path(self) -> Path: ...

    def read_file(self, name: str) -> bytes | None: ...


class RepositoryFiles:
    """The small files, decoded. BadCheckpoint names a file that is no JSON object, or a field of another type."""

    def __init__(self, files: Files) -> None:
        self.path = files.path
        self._files = files
        self.config = self._object(CONFIG)
        self._special = self._object(SPECIAL_TOKENS)
        self._generation = self._object(GENERATION)
        self.model_config = self._object(MODEL_CONFIG)

    def read_file(self, name: str) -> bytes | None:
        return self._files.read_file(name)

    def bad(self, file: str, why: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path}: {file}: {why}")

    def text_of(self, name: str) -> str | None:
        """The text of a special token, `name` is "bos_token" and so on; None where there is none."""
        for file, values in ((CONFIG, self.config), (SPECIAL_TOKENS, self._special)):
            value = values.get(name)
            if isinstance(value, dict):
                value = value.get("content")
            if value is not None:
                if not isinstance(value, str) or len(value) > MAX_TEXT:
                    raise self.bad(file, f"{name} is no text of at most {MAX_TEXT} characters")
                return value or None
        return None

    @property
    def tokenizer_class(self) -> str:
        """As transformers calls it, without the "Fast" of the faster twin."""
        return str(self.config.get("tokenizer_class") or "").removesuffix("Fast")

    def adds(self, name: str) -> bool | None:
        """Whether the class puts `name` ("bos" or "eos") around a text; None where tokenizer.json decides."""
        defaults = ADDING_CLASSES.get(self.tokenizer_class)
        if defaults is None:
            return None
        return self.flag(f"add_{name}_token", defaults[name == "eos"])

    def flag(self, name: str, default: bool) -> bool:
        """true or false of tokenizer_config.json."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.bad(CONFIG, f"{name} is neither true nor false")
        return value

    def end_ids(self, num_tokens: int) -> set[int]:
        """Every id that generation_config.json and config.json name as an end."""
        nested = self.model_config.get("text_config")
        ids: set[int] = set()
        for file, values in (
            (GENERATION, self._generation),
            (MODEL_CONFIG, self.model_config),
            (MODEL_CONFIG, nested if isinstance(nested, dict) else {}),
        ):
            ids |= self._ids(file, "eos_token_id", values, num_tokens)
        return ids

    def _ids(self, file: str, name: str, values: dict[str, Any], num_tokens: int) -> set[int]:
        value = values.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for index in ids:
            if type(index) is not int or not 0 <= index < num_tokens:
                raise self.bad(file, f"{name}: {str(index)[:64]} is not one of the {num_tokens} tokens")
        return set(ids)

    def added_tokens(self) -> dict[int, dict[str, Any]]:
        """Tokens beside the vocabulary, with their flags, as tokenizer_config.json or added_tokens.json has them."""
        listed = self.config.get("added_tokens_decoder")
        if isinstance(listed, dict):
            return {self._id(CONFIG, key): self._added(CONFIG, value) for key, value in listed.items()}
        return {self._id(ADDED_TOKENS, index): {"content": text} for text, index in self._object(ADDED_TOKENS).items()}

    def _id(self, file: str, value: object) -> int:
        try:
            return int(str(value)[:20])
        except ValueError:
            raise self.bad(file, f"{str(value)[:64]!r} is no token id") from None

    def _added(self, file: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            raise self.bad(file, "added_tokens_decoder has a token without content")
        return value

    def chat_template(self) -> str | None:
        """The Jinja template of a conversation: of several, the one named "default", or the first."""
        raw = self.read_file(CHAT_TEMPLATE)
        if raw is not None:
            return raw.decode("utf-8", "replace")
        template = self.config.get("chat_template", self._object("chat_template.json").get("chat_template"))
        if isinstance(template, list):
            named = {str(item.get("name")): item.get("template") for item in template if isinstance(item, dict)}
            template = named.get("default", next(iter(named.values()), None))
        if template is not None and not isinstance(template, str):
            raise self.bad(CONFIG, "chat_template is neither a text nor a list of named texts")
        return template

    def _object(self, name: str) -> dict[str, Any]:
        raw = self.read_file(name)
        if raw is None:
            return {}
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise self.bad(name, f"is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise self.bad(name, "is no JSON object")
        return value
