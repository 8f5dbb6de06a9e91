# `make` lists the targets. Everything runs in .venv, which the first target that needs it makes.

PYTHON ?= python3
# The CPU build of PyTorch stands in an index of its own; where it can't be reached, the usual build is taken.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
READY := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help train demo demo-stop test test-slow bench lint format types check docs constraints requirements image sbom audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

train: $(READY) ## train on drawn cats, or on yours: make train SOURCE=~/a.zip
	$(BIN)/catae train $(if $(SOURCE),--source "$(SOURCE)") $(ARGS)

demo: $(READY) ## a walk through Prefect, and the address where to see it
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh start

demo-stop: ## end what `make demo` has started
	@scripts/demo.sh stop

test: $(READY) ## run the tests: make test ARGS="-k split"
	$(BIN)/pytest -m "not slow" $(ARGS)

test-slow: $(READY) ## run the tests that take minutes
	$(BIN)/pytest -m slow $(ARGS)

bench: $(READY) ## measure training beside others' ways: make bench SOURCE=a.zip
	$(BIN)/pip install -q -c constraints.txt -e ".[bench]"
	@# Without what it asks for: a `dataclasses` of 2018, which Prefect's embedded server would take for Python's own.
	$(BIN)/pip install -q --no-deps "pythae>=0.1.2"
	$(BIN)/python benchmarks/training/throughput.py "$(or $(SOURCE),drawn:2000)" $(ARGS)

lint: $(READY) ## look for mistakes and for code out of form
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY) ## check the types
	$(BIN)/mypy

check: lint types test ## all that a change must pass

format: $(READY) ## put the code into form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) ## make the tables of settings anew, from catae/settings.py
	$(BIN)/python docs/make.py

constraints: ## pin the newest versions: constraints.txt, from a new .venv
	rm -rf .venv
	$(MAKE) $(READY) CONSTRAINTS=
	$(BIN)/pip install -q -e '.[ray]'
	$(BIN)/pip list --format freeze --exclude-editable --exclude pip --exclude setuptools \
		| grep -vE '^(nvidia|cuda|triton)' | sed -E 's/\+[a-z0-9.]+$$//' > constraints.txt
	$(MAKE) requirements

# PyTorch is left out, and CUDA with it: its builds, and so their digests, differ from index to index.
requirements: $(READY) ## pin what the image holds, with digests: requirements.txt
	$(BIN)/pip install -q uv
	{ echo "# What the image holds besides PyTorch, with the registry's digests: made by \`make requirements\`."; \
		$(BIN)/uv pip compile -q --generate-hashes --universal --no-annotate --no-header -c constraints.txt \
			--extra kaggle pyproject.toml | awk '/^[a-z]/ { keep = !/^(torch|torchvision|triton|nvidia-.*|cuda-.*)==/ } keep'; } > requirements.txt

image: ## build the image, catae
	docker build --build-arg REVISION="$$(git rev-parse HEAD)" --build-arg TORCH_INDEX="$(TORCH_INDEX)" -t catae .

sbom: ## list what is in the image, with licences: dist/
	docker build --build-arg TORCH_INDEX="$(TORCH_INDEX)" --target sbom --output dist .

audit: $(READY) ## look for known vulnerabilities; needs the network
	@$(BIN)/pip install -q pip-audit
	@found=$$($(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt 2>&1); code=$$?; \
		case "$$found" in \
			*"No known vulnerabilities found"*|*"Found "*) echo "$$found" ;; \
			*) echo "$$found" | tail -n 1; echo "audit: nothing was audited: the registry's advisories can't be reached" ;; \
		esac; exit $$code

clean: ## remove the environment and the caches, never the artifacts
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache catae.egg-info build dist

CONSTRAINTS ?= -c constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "catae needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(CONSTRAINTS) --retries 0 --timeout 5 --extra-index-url "$(TORCH_INDEX)" torch torchvision
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[dev]'
	@touch $@
