# uv comes from PATH or, where there is none, from PyPI into .venv.
UV := $(or $(shell command -v uv),.venv/bin/uv)
# Two tests more than processors at a time, since some of them wait.
PYTEST = $(UV) run pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 2)) --dist loadgroup --ignore tests/faults
# Set, as in many images, it has each of these processes compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help test retest demo check faults bench bench-scale bench-docs screenshots bench-render

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

test: $(UV) ## run the tests
	$(PYTEST)

retest: $(UV) ## run the tests that failed last time once more
	$(PYTEST) --last-failed

demo: $(UV) ## render the default project, start it and run a job of every task
	$(UV) run python -m tests.demo

check: $(UV) ## lint this repository and check its types
	$(UV) run ruff check
	$(UV) run ruff format --check
	$(UV) run mypy

faults: $(UV) ## kill, cut, fill and hang real servers and workers; FAULTS=full for the full counts
	$(UV) run python -m tests.faults

bench: $(UV) ## measure the default project beside stock arq, SAQ and taskiq; takes twenty minutes
	$(UV) run python -m bench

bench-scale: $(UV) ## measure 1, 2, 4, 6 and 8 workers, each with 15 % of a core; takes ten minutes
	$(UV) run python -m bench --only scale

bench-docs: $(UV) ## write the figures of the last runs into README.md and the template's docs/scaling.md
	$(UV) run python -m bench.report

screenshots: $(UV) ## write the screens and pictures of the documentation, from a real run
	$(UV) run python -m tests.screens

bench-render: $(UV) ## time a render beside that of an empty template, and an update
	$(UV) run python -m tests.bench_render

.venv/bin/uv:
	python3 -m venv .venv
	.venv/bin/pip install --quiet uv
