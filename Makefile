# Every target does the set-up that it needs; see setup.sh.
.PHONY: run test test-slow test-kill lint format bench bench-pull clean
BIN := .venv/bin

run:
	@sh setup.sh run
	@exec $(BIN)/hearth serve --starter

test: lint
	$(BIN)/python -m pytest -m "not slow and not kill" -n auto --dist loadfile

test-slow:
	@sh setup.sh dev
	$(BIN)/python -m pytest -m slow

test-kill:
	@sh setup.sh dev
	$(BIN)/python -m pytest -m kill

lint:
	@sh setup.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format:
	@sh setup.sh dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-pull:
	@sh setup.sh dev
	$(BIN)/python -m bench.pull

bench:
	@sh setup.sh dev
	$(BIN)/python -m bench

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
