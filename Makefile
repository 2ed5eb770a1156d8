# uv comes from PATH or, where there is none, from PyPI into .venv.
UV := $(or $(shell command -v uv),.venv/bin/uv)

.PHONY: help test demo check bench bench-render

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

test: $(UV) ## run the whole suite
	$(UV) run pytest --numprocesses auto --dist loadgroup

demo: $(UV) ## render the default project, start it and run a job of every task
	$(UV) run python -m tests.demo

check: $(UV) ## look for mistakes in this repository without running anything
	$(UV) run ruff check
	$(UV) run ruff format --check
	$(UV) run mypy

bench: $(UV) ## measure the default project beside bare arq, SAQ and taskiq
	$(UV) run python -m bench

bench-render: $(UV) ## time a render beside that of an empty template, and an update
	$(UV) run python -m tests.bench_render

.venv/bin/uv:
	python3 -m venv .venv
	.venv/bin/pip install --quiet uv
