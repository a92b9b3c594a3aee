# Two commands do everything: `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
HTML   := book/_build/html
BUILD  := $(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book -W -n --keep-going

.DEFAULT_GOAL := help
.PHONY: help book pdf slides test test-book soak benchmark lab student lint clean

help:  ## Say what each command does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The environment is made anew whenever what it is made from changes.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[book,test,browser,benchmark,dev]'
	touch $@

# Sphinx and the execution cache know only the notebooks: forget what was built when the code that they call changes.
book/_build/.code: $(wildcard lesson_utils/*.* lesson_utils/explorers/* lessons/exercises/*.py lessons/recorded/*/*)
	rm -rf book/_build/.jupyter_cache book/_build/.doctrees
	mkdir -p book/_build && touch $@

book: $(VENV)/.ready book/_build/.code  ## Install into .venv, run every lesson, build book/_build/html (warnings are errors)
	$(BUILD)
	@echo "Open $(HTML)/index.html"

pdf: $(VENV)/.ready book/_build/.code  ## Print the whole book to book/_build/pdf (warnings are errors; needs Chromium)
	$(BUILD) --builder singlehtml
	$(BIN)/python book/print_pdf.py

NPM := npm install --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error --prefix
SLIDES := $(wildcard lessons/*.ipynb)
REVEAL := book/slides/node_modules/reveal.js
$(REVEAL)/dist/reveal.js: book/slides/package.json
	$(NPM) book/slides
	touch $@

slides: $(VENV)/.ready $(REVEAL)/dist/reveal.js  ## Run the lessons, write their slides to build/slides (needs npm)
	rm -rf build/slides && mkdir -p build/slides/_static
	cp $(addprefix $(REVEAL)/,dist/reveal.js dist/reveal.css plugin/notes/notes.js) build/slides/_static
	cp $$(find $(VENV)/lib -path '*/mathjax/tex-svg.js') build/slides/_static
	LESSONS_BOOK=1 $(BIN)/python -m nbconvert --config book/slides/config.json --output-dir build/slides $(SLIDES)
	@echo "Open a page of build/slides"

test: $(VENV)/.ready  ## Unit and property tests, then every lesson from first to last cell
	$(BIN)/python -m pytest tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval-lax --nbval-current-env lessons -n 2 --dist loadfile

AXE := tests/browser/node_modules/axe-core/axe.min.js
$(AXE): tests/browser/package.json
	$(NPM) tests/browser
	touch $@

test-book: $(VENV)/.ready $(AXE)  ## Look at every built page and the PDF in Chromium, and at the widgets in JupyterLab (needs npm)
	$(BIN)/python -m pytest tests/browser

soak: $(VENV)/.ready  ## Run each lesson with a widget 20 times in a row, to find one that hangs
	for n in $$(seq 20); do echo "run $$n"; OMP_NUM_THREADS=1 timeout 600 $(BIN)/python -m pytest -q --nbval-lax --nbval-current-env \
		-n 2 --dist loadfile $$(grep -l lesson_utils.widgets lessons/*.ipynb) || exit 1; done

benchmark: $(VENV)/.ready  ## Compare speeds within one run (not part of the tests)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-columns=median,iqr,rounds

lab: $(VENV)/.ready  ## Open the lessons in JupyterLab
	$(BIN)/jupyter lab lessons

student: $(VENV)/.ready  ## Write the lessons without their solutions to build/student
	rm -rf build/student
	$(BIN)/jupyter nbconvert --config book/student.json --output-dir build/student lessons/*.ipynb
	cp -r lessons/exercises $(wildcard lessons/recorded) build/student

lint: $(VENV)/.ready  ## Check style; the notebooks must be committed without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --keep-id --verify lessons/*.ipynb

clean:  ## Remove what was built (not the environment)
	rm -rf book/_build build .pytest_cache .hypothesis .ruff_cache .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path './$(VENV)/*' -prune -exec rm -rf {} +
