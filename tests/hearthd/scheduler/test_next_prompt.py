"""What a load is told of the request that it is for."""

from __future__ import annotations

from hearthd.scheduler.lease import LoadOptions
from hearthd.scheduler.loading import MAX_PROMPT_CHARS
from tests.hearthd.scheduler.stage import Stage, run, stored

MODEL = stored("model")


class Asked:
    """A prompt that counts how often it is asked for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.count = 0

    async def __call__(self) -> str:
        self.count += 1
        return self.text


def told(asked: Asked, prefix_dir: str, *, times: int = 1) -> list[str]:
    """The prompts that runners were loaded with."""
    stage = Stage()

    async def scenario() -> None:
        scheduler = stage.scheduler(prefix_dir=prefix_dir)
        for _ in range(times):
            async with scheduler.lease(MODEL, LoadOptions(), None, asked):
                pass
        await scheduler.stop()

    run(scenario())
    return [runner.load.prompt for runner in stage.runners]


def test_a_load_is_told_what_will_be_asked() -> None:
    assert told(Asked("hello"), "/prefixes") == ["hello"]


def test_a_loaded_model_needs_no_telling() -> None:
    asked = Asked("hello")
    assert told(asked, "/prefixes", times=3) == ["hello"]
    assert asked.count == 1


def test_where_nothing_is_saved_the_prompt_is_not_made() -> None:
    asked = Asked("hello")
    assert told(asked, "") == [""]
    assert asked.count == 0


def test_an_enormous_prompt_is_not_told_twice() -> None:
    assert told(Asked("x" * (MAX_PROMPT_CHARS + 1)), "/prefixes") == [""]
