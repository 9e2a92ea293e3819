# What a person does with this tree. `make` alone says what there is.

PYTHON ?= python3
DEBIAN_PYTHON ?= /usr/bin/python3

# Two environments: .venv has the newest of everything from PyPI; .venv-debian is the system's Python over the packages
# that Debian ships, with nothing but the test tools from PyPI. A file in each says that it is complete.
VENV := .venv
DEBIAN := .venv-debian
PIP := -m pip --disable-pip-version-check --quiet
EDITABLE := --editable

.PHONY: help run test test-units test-ktls test-package lint bench deb clean

help:
	@echo "make run         start regcachd on port 3128, everything it keeps under ./var; Ctrl-C stops it"
	@echo "make test        run all tests, with real registries and clients (installs Debian packages when missing)"
	@echo "make test-units  run the tests that need no other program, on PyPI's newest packages alone"
	@echo "make test-ktls   run the tests of kernel TLS under Debian's kernel in qemu (downloads it and a Debian root once)"
	@echo "make test-package  build the Debian packages and try them in a booted container (as root; minutes)"
	@echo "make lint        check style and types"
	@echo "make bench       measure, next to nginx (prints a table, writes var/bench.json)"
	@echo "make soak        two minutes of random load: pulls, faults, kills, restarts (prints a table)"
	@echo "make deb         build the Debian packages in a clean root, into ./dist (RELEASE=trixie for Debian 13)"
	@echo "make clean       remove what make made, but for ./var"

# The shell outlives Ctrl-C to tell a daemon that was stopped from one that failed.
run: $(VENV)/.installed
	@trap : INT; $(VENV)/bin/twistd -n --pidfile= regcache --state ./var/state --store ./var/cache || [ $$? -eq 130 ]

# As many tests at once as there are processors; those of real programs and the random load one after another, since
# they measure, and have processes of their own.
AT_ONCE := -m "not e2e" --numprocesses auto --dist worksteal

# Everything on Debian's versions, then all but the real programs and the random load, for which one environment is
# enough, on the newest; pytest's own closing line ends the output.
test: .test-dependencies $(DEBIAN)/.installed $(VENV)/.test
	@scripts/debian-versions $(DEBIAN)/bin/python
	PYTHONNOUSERSITE=1 $(DEBIAN)/bin/python -m pytest $(AT_ONCE)
	PYTHONNOUSERSITE=1 $(DEBIAN)/bin/python -m pytest -m e2e
	$(VENV)/bin/python -m pytest $(AT_ONCE)

.PHONY: .test-dependencies
.test-dependencies:
	@scripts/test-dependencies

test-units: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(AT_ONCE)

test-ktls: $(DEBIAN)/.installed
	@scripts/test-ktls $(DEBIAN)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: .test-dependencies $(VENV)/.installed
	$(VENV)/bin/python -m bench

soak: $(VENV)/.test
	$(VENV)/bin/python -m tests.load

deb:
	@scripts/deb dist

test-package:
	@scripts/test-package

clean:
	rm -rf $(VENV) $(DEBIAN) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find regcachd twisted tests bench -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

$(VENV)/.installed: pyproject.toml scripts/make-venv
	@scripts/make-venv $(VENV) $(PYTHON)
	$(VENV)/bin/python $(PIP) install $(EDITABLE) .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(VENV)/bin/python $(PIP) install $(EDITABLE) '.[test,test-aws]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(VENV)/bin/python $(PIP) install $(EDITABLE) '.[lint]'
	@touch $@

$(DEBIAN)/.installed: pyproject.toml scripts/make-venv | .test-dependencies
	@scripts/make-venv $(DEBIAN) $(DEBIAN_PYTHON) --system-site-packages
	PYTHONNOUSERSITE=1 $(DEBIAN)/bin/python $(PIP) install pytest pytest-twisted pytest-xdist hypothesis
	PYTHONNOUSERSITE=1 $(DEBIAN)/bin/python $(PIP) install --no-deps $(EDITABLE) .
	@touch $@
