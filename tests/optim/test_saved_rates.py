"""Learning rates are part of what an optimiser saves, where they are numbers."""

import numpy as np
import pytest

from tapegrad import optim
from tapegrad.errors import DataError, ShapeError


def grouped(lr, own):
    return optim.Adam(lr=lr, groups=[{"params": "a", "lr": own}, {"params": "b"}])


def test_rates_are_saved_and_loaded(tmp_path):
    one = grouped(0.1, 0.2)
    one.lr, one.groups[0].lr = 0.05, np.float32(0.5)
    one.save(tmp_path / "adam.npz")
    other = grouped(0.7, 0.8)
    other.load(tmp_path / "adam.npz")
    assert [other.lr, *(group.lr for group in other.groups)] == [0.05, 0.5, None, None]
    assert one.state_dict()["lr"].tolist() == other.state_dict()["lr"].tolist() == [0.05, 0.5, -1.0, -1.0]


def test_schedules_stay_what_they_are():
    schedule = optim.cosine(0.3, 10)
    numbers, functions = grouped(0.1, 0.2), grouped(schedule, schedule)
    functions.load_state_dict(numbers.state_dict())
    assert functions.lr is schedule and functions.groups[0].lr is schedule
    numbers.load_state_dict(functions.state_dict())
    assert (numbers.lr, numbers.groups[0].lr) == (0.1, 0.2)


@pytest.mark.parametrize("kind", [optim.Adam, optim.LBFGS])
def test_files_without_rates_load_and_bad_rates_change_nothing(kind):
    saved, optimizer = kind(lr=0.5).state_dict(), kind(lr=0.25)
    saved["steps"] = np.array(3)
    for rates, error in (
        ([0.5], ShapeError), ([np.nan, -1.0], DataError), ([np.inf, -1.0], DataError), ([-2.0, -1.0], DataError),
        ([1, -1], DataError), (["a", "b"], DataError),
    ):  # fmt: skip
        with pytest.raises(error, match="learning rates"):
            optimizer.load_state_dict(saved | {"lr": np.array(rates)})
    assert optimizer.lr == 0.25 and optimizer.steps == 0
    optimizer.load_state_dict({name: x for name, x in saved.items() if name != "lr"})
    assert optimizer.lr == 0.25 and optimizer.steps == 3
    optimizer.load_state_dict(saved)
    assert optimizer.lr == 0.5
