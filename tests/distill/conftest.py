"""A tiny teacher, a narrower student, and clean samples for them."""

from __future__ import annotations

import pytest
import torch
from support import tiny_training


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clean():
    return tiny_training.clean()


@pytest.fixture
def process():
    return tiny_training.PROCESS
