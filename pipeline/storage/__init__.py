"""Files and folders on this machine's disk or in a store: whole or absent, and one writer at a
time."""
