"""What the pipeline hands to trainer and jobs: folders and records, each with the types that both
sides read."""
