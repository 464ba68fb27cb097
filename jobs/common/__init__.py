"""What all commands share: the configuration and how a job ends."""
