"""Starting the ranks of a training, and starting them again."""
