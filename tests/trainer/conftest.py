"""The trainer's tests compute as a rank does: with one torch thread. None fails because the machine
is busy: an example of hypothesis may take its time."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
