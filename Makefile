# Everything from a fresh clone: `make demo` and `make test` set up what they need.
VENV := .venv
BIN := $(VENV)/bin
# pages and tables hold more than ASCII, whatever the locale
export PYTHONUTF8 := 1
PROCESSES := -n auto --no-loadscope-reorder
MARKS := not slow and not longer

.PHONY: setup demo test test-longer test-all test-plain-processor lint format test-oldest test-newest clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(wildcard trainers/*.py)
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	touch $@

demo: setup ## a guided first run on synthetic cardiac data, under ./selfreg_demo
	$(BIN)/nnUNetv2_selfreg demo

test: setup ## an answer within six minutes on two cores
	$(BIN)/pytest $(PROCESSES) -m "$(MARKS)"

test-longer: setup ## what make test leaves out and CI runs: kinds of data sets and networks, compiling, the workflows
	$(BIN)/pytest $(PROCESSES) -m "longer and not slow"

test-all: setup ## with the slow rows of documentation/compatibility.md
	$(BIN)/pytest $(PROCESSES)

# numpy's and torch's sums differ in the last digits from processor to processor: no test may depend on them. Left out
# is what calculates nothing (archives, files, settings, commands), trainings, and compiling: torch 2.13 writes vector
# code that such a processor's compiler refuses.
CALCULATES := $(addprefix tests/test_,losses.py terms.py expectation.py criterion.py layouts.py taps.py networks.py \
    statistics.py comparison.py what_it_does.py) $(wildcard tests/benchmarks/test_*.py) tests/commands/test_phantom.py tests/examples/test_paper_results.py \
    $(addprefix tests/benchmarks/convert/test_,pictures.py polygons.py benchmarks.py) tests/compare tests/inspect tests/study

test-plain-processor: setup ## what calculates without a training, with the processor's newer instructions switched off
	NPY_DISABLE_CPU_FEATURES="$$($(BIN)/python -c 'from numpy._core._multiarray_umath import __cpu_dispatch__; print(*__cpu_dispatch__)')" \
	    ATEN_CPU_CAPABILITY=default OPENBLAS_CORETYPE=Prescott $(BIN)/pytest $(PROCESSES) -m "not slow and not longer" \
	    -k "not inductor" $(CALCULATES)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# the rows of documentation/compatibility.md since 2.6.0
OLDEST := tests/test_trainer.py tests/test_criterion.py tests/test_taps.py tests/commands/test_plans.py tests/commands/test_doctor.py \
    tests/nnunet/test_commands.py tests/nnunet/test_resume.py

test-oldest: ## the wheel on the oldest nnU-Net that is supported, and what uninstalling leaves
	tests/check_nnunet_version.sh 2.6.0 $(OLDEST)

test-newest: ## the wheel on the newest: is it found, and what does uninstalling leave
	tests/check_nnunet_version.sh 2.8.1 tests/test_trainer.py tests/commands/test_doctor.py

clean: ## what was installed here, not what the demo made
	rm -rf $(VENV) .venv-nnunet-*
