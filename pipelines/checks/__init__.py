"""What can be known before a run, and of a run before a training."""
