"""What people and schedulers see of a training: progress, health, validation, traces."""
