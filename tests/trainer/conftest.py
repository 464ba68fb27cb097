"""The trainer's tests compute as a rank does: with one torch thread."""

import torch

torch.set_num_threads(1)
