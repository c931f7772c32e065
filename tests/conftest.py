"""Settings for every test."""

import os

import torch

# tests run in one process a core: more threads on tensors this small only wait for each other
torch.set_num_threads(1)

# Triton kernels run in its interpreter, on the CPU. Read when Triton is first imported, which any test may cause.
os.environ["TRITON_INTERPRET"] = "1"
