# Every target does the set-up that it needs; see setup.sh.
.PHONY: run test test-schemas test-slow test-kill test-systemd test-cage test-export soak lint format bench bench-engines bench-sampling bench-constrained bench-clients bench-prefix bench-memory bench-kv bench-loading bench-service bench-shift bench-pull bench-export bench-embeddings clean
BIN := .venv/bin

run:
	@sh setup.sh run
	@exec $(BIN)/hearth serve --starter

test: lint
	$(BIN)/python -m pytest -m "not slow and not kill and not soak and not systemd and not cage" -n auto --dist loadfile

test-schemas:
	@sh setup.sh dev
	$(BIN)/python -m pytest -m slow tests/hearthd/engine/test_schemas.py

test-slow:
	@sh setup.sh dev
	$(BIN)/python -m pytest -m slow

soak:
	@sh setup.sh dev
	$(BIN)/python -m pytest -m soak -s

test-export:
	@sh setup.sh export
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile tests/with_transformers

test-kill:
	@sh setup.sh dev
	$(BIN)/python -m pytest -m kill

test-systemd:
	@sh setup.sh systemd
	$(BIN)/python -m pytest -m systemd -s tests/appliance

test-cage:
	@sh setup.sh cage
	$(BIN)/python -m pytest -m cage -s tests/appliance/test_cage.py

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

bench: bench-engines bench-clients bench-prefix bench-memory bench-sampling bench-constrained bench-export bench-embeddings

bench-export:
	@sh setup.sh dev
	$(BIN)/python -m bench.export

bench-embeddings:
	@sh setup.sh export
	$(BIN)/python -m bench.embeddings

bench-clients:
	@sh setup.sh dev
	$(BIN)/python -m bench.clients

bench-prefix:
	@sh setup.sh dev
	$(BIN)/python -m bench.prefix

bench-memory:
	@sh setup.sh dev
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.longctx

bench-kv:
	@sh setup.sh dev
	$(BIN)/python -m bench.kv

bench-loading:
	@sh setup.sh dev
	$(BIN)/python -m bench.loading

bench-service:
	@sh setup.sh systemd
	$(BIN)/python -m bench.service

bench-engines:
	@sh setup.sh dev
	$(BIN)/python -m bench

bench-sampling:
	@sh setup.sh dev
	$(BIN)/python -m bench.sampling

bench-constrained:
	@sh setup.sh dev
	$(BIN)/python -m bench.constrained

bench-shift:
	@sh setup.sh dev
	$(BIN)/python -m bench.shift

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
