"""Some random networks against PyTorch; `python -m tests.random_networks --count 10000` runs more."""

import numpy as np
import pytest

import tapegrad as tg

pytest.importorskip("torch")

from random_networks import Network, hold

# PyTorch says that it copies.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_random_networks_are_differentiated_rightly(first):
    compared = 0
    for seed in range(first, first + 8):
        network = Network(seed)
        wrong, count = hold(network)
        assert not wrong, "\n".join([f"{seed}, {network.dtype.__name__}:", *network.text, *wrong])
        compared += count
    assert compared > 100


def test_a_wrong_gradient_is_found(monkeypatch):
    """What tests must do themselves: fail."""
    right = tg.group_norm

    def wrong(x, groups, weight, bias, eps):
        return right(x, groups, weight, bias, eps) + 1e-4 * np.sum(x)

    network = next(n for n in map(Network, range(100)) if n.text[-1].startswith("group_norm"))
    assert not hold(network)[0]
    monkeypatch.setattr(tg, "group_norm", wrong)
    assert hold(network)[0]
