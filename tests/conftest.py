"""Settings for every test."""

import os
from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import Browser

from tests.browser_tools import open_browser

# tests run in one process a core: more threads on tensors this small only wait for each other
torch.set_num_threads(1)

# Triton kernels run in its interpreter, on the CPU. Read when Triton is first imported, which any test may cause.
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the tests of a file."""
    with open_browser() as chromium:
        yield chromium
