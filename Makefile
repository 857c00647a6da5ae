# `make mnist` trains a network on MNIST, `make test` runs the tests. Each makes the environment .venv first, where it is
# missing or older than pyproject.toml. PYTHON=... picks the Python that it is made from, 3.11 or later.
PYTHON ?= python3

.PHONY: mnist test clean

mnist: .venv/ready
	.venv/bin/python examples/mnist_mlp.py

test: .venv/ready
	.venv/bin/python -m pytest

# The pip of the machine installs into the environment where venv comes without one.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv || $(PYTHON) -m venv --without-pip .venv
	if [ -x .venv/bin/pip ]; then .venv/bin/python -m pip install --quiet -e '.[dev]'; \
	else $(PYTHON) -m pip --python .venv/bin/python install --quiet -e '.[dev]'; fi
	touch $@

clean:
	rm -rf .venv
