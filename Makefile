# Two commands: `make figures` and `make test`. Both make .venv first, from constraints.txt.

PYTHON := $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PRESET ?= quick
JOBS ?= 2
INSTALLED := .venv/.installed
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help figures figure test deep bench lint paper api clean

help:
	@echo "make figures                        every figure, quick preset -> figures/out/index.html"
	@echo "make figure NAME=fig_x PRESET=paper one figure (smoke, quick or paper)"
	@echo "make test                           the test suite"
	@echo "make deep                           random search, slow tests, planted defects (up to 1 h)"
	@echo "make lint | bench | paper | api | clean"

$(INSTALLED): pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

figures: $(INSTALLED)
	$(BIN)/python -m figures --preset $(PRESET) --jobs $(JOBS)

figure: $(INSTALLED)
	$(if $(NAME),,$(error expected NAME=fig_x; `python -m figures --list` names them))
	$(BIN)/python -m figures $(NAME) --preset $(PRESET)

test: $(INSTALLED)
	HYPOTHESIS_PROFILE=ci $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) -m "not slow"

deep: $(INSTALLED)
	HYPOTHESIS_PROFILE=deep $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS)

bench: $(INSTALLED)
	$(BIN)/python -m figures --bench

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

paper: $(INSTALLED)
	$(BIN)/python -m paper.generate --check
	@command -v latexmk >/dev/null || { echo "make paper: latexmk not found; install TeX Live (Debian: latexmk texlive-latex-extra texlive-science)"; exit 1; }
	latexmk -pdf -cd -outdir=build -interaction=nonstopmode -halt-on-error paper/main.tex

api: $(INSTALLED)
	$(BIN)/python -m pdoc --docformat google -o build/api toymodels toymodels.laws toymodels.strategies sae sae.laws sae.strategies theory theory.claims

clean:
	rm -rf build figures/out paper/generated paper/build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
