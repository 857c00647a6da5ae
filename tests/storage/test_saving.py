"""Recordings in files: what they compute in this process and in one without their source, and what cannot be saved."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import programs_to_save as programs
import pytest

import tapegrad as tg
from checks import rounding
from tapegrad import errors

NAMES = list(programs.named())
SCALAR = [name for name in NAMES if name not in ("views", "branching")]


@pytest.fixture(scope="module")
def recordings():
    return programs.named()


@pytest.fixture
def saved(recordings, tmp_path):
    def save(name):
        recording, args = recordings[name]
        recording.save(tmp_path / "saved.tape")
        return recording, tg.load(tmp_path / "saved.tape", classes=programs.CLASSES), args

    return save


def same(found, expected):
    leaves, structure = tg.pytree.flatten(found)
    others, like = tg.pytree.flatten(expected)
    assert structure == like
    for x, y in zip(leaves, others, strict=True):
        assert type(x) is type(y)
        if isinstance(y, str):
            assert x == y
        else:
            np.testing.assert_allclose(x, y, rtol=16 * rounding(), atol=rounding())
            assert np.shape(x) == np.shape(y) and getattr(x, "dtype", None) == getattr(y, "dtype", None)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_same(name, saved):
    recording, loaded, args = saved(name)
    same(loaded(*args), recording(*args))
    assert loaded.name == recording.name and len(loaded) == len(recording)
    assert [p.code.operations.values() for p in loaded.programs] != []


@pytest.mark.parametrize("name", [n for n in SCALAR if not n.startswith("gradient")])
def test_derivatives_are_the_same(name, saved):
    recording, loaded, args = saved(name)
    same(loaded.value_and_grad(*args), recording.value_and_grad(*args))
    along = tuple(args[:1]) + (None,) * (len(args) - 1)
    same(loaded.jvp(args, along)[1], recording.jvp(args, along)[1])
    same(loaded.vjp(*args)[1](0.5), recording.vjp(*args)[1](0.5))
    same(loaded.hvp(args[:1] + args[1:], along, 0) if len(args) == 1 else loaded.grad(*args),
         recording.hvp(args[:1] + args[1:], along, 0) if len(args) == 1 else recording.grad(*args))
