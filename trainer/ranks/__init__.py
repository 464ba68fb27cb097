"""Ranks and what lies between them: Horovod, shared memory, processes, devices."""
