# `make` prints what can be made. Every target does the set-up it needs; the second time that takes a second.
CONFIG ?= jobs/configs/completejourney.toml
NP ?= 2
TESTS ?=
# Tests of a file share a worker, and its Spark.
WORKERS ?= 2
BENCH ?=
export PYTHON ?= python3.11

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# Bash reads this file before each command: the one that people `source` to type the same commands themselves.
export BASH_ENV := $(CURDIR)/.venv/m2grl.env

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow test-cluster test-s3 test-hadoop test-scale test-kill dist bench bench-pipeline bench-train bench-train-memory bench-exchange check format clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' Makefile

setup: ## install everything into .venv (run, test, check and format do so themselves)
	@.ci/setup/setup.sh

run: setup ## go from click log to report: CONFIG=a.toml for your own log, NP=4 for four ranks
	spark-submit jobs/preprocess.py $(CONFIG)
	python jobs/launch.py $(CONFIG) --ranks $(NP)
	python jobs/export.py $(CONFIG)
	python jobs/similar.py $(CONFIG)
	python jobs/similar.py $(CONFIG) --evaluate.score cosine
	python jobs/evaluate.py $(CONFIG)
	python jobs/report.py $(CONFIG)

test: setup ## run the tests: TESTS=tests/trainer for some of them
	pytest -n $(WORKERS) --dist loadfile $(TESTS)

test-slow: setup ## run what is slow by nature: real logs counted twice, a planted truth recovered, peers, a long training on four ranks (ten minutes; not part of test)
	pytest tests/pipeline/runs/check_sources.py tests/pipeline/runs/check_daily.py tests/bench/check_peers.py tests/planted/check_planted.py tests/jobs/check_maintain.py tests/jobs/check_launch.py tests/trainer/ranks/check_ranks.py

test-cluster: dist ## run the pipeline on a real Spark cluster of processes (minutes; not part of test)
	pytest tests/cluster/check_standalone.py

test-scale: setup ## run the pipeline on 20 million clicks with a crawler and a hot item, and on a real log day by day (fifty minutes; not part of test)
	pytest tests/scale/check_hostile.py tests/scale/check_days.py

test-kill: setup ## kill preprocessing, and both ranks of a training, again and again (half an hour; not part of test)
	pytest -s tests/pipeline/check_kill.py tests/trainer/check_kill.py

test-s3: dist ## run pipeline and training against a real S3 server (minutes; not part of test)
	settings=$$(.ci/setup/s3.sh "$(CURDIR)/.venv" "$${XDG_CACHE_HOME:-$$HOME/.cache}/m2grl"); eval "$$settings"; pytest tests/cluster/check_s3.py

test-hadoop: dist ## run the pipeline on a real YARN and HDFS, and training on its shards (minutes; not part of test)
	settings=$$(.ci/setup/hadoop.sh "$(CURDIR)/.venv" "$${XDG_CACHE_HOME:-$$HOME/.cache}/m2grl"); eval "$$settings"; pytest tests/cluster/check_hadoop.py

dist: setup ## pack what spark-submit sends to a cluster: build/dist/m2grl.zip and environment.tar.gz
	python .ci/setup/dist.py build/dist

bench: bench-pipeline bench-train ## run every benchmark; figures go to build/bench

bench-pipeline: setup ## time preprocessing beside DuckDB and polars: BENCH="--copies 1 3 10 33" for up to 100 million clicks
	python -m tests.bench.pipeline $(BENCH)

bench-train: setup ## time training beside gensim and plain PyTorch, and two ranks beside one: BENCH="--corpora dense --rounds 5"
	python -m tests.bench.train $(BENCH)

bench-train-memory: setup ## measure the memory of training 10 million items on two ranks (ten minutes, 10 GB of memory)
	python -m tests.bench.train_memory $(BENCH)

bench-exchange: setup ## count what up to 64 ranks would exchange, without starting them: BENCH="--ranks 1 8 64"
	python -m tests.bench.exchange $(BENCH)

check: setup ## check format, style and types
	ruff format --check
	ruff check
	mypy

format: setup ## format the code and mend what the linter can
	ruff format
	ruff check --fix

clean: ## remove what run and test wrote (build/ and the tools' caches); .venv stays
	rm -rf build spark-warehouse .pytest_cache .mypy_cache .ruff_cache .hypothesis
