"""Settings for every test."""

import torch

# tests run in one process a core: more threads on tensors this small only wait for each other
torch.set_num_threads(1)
