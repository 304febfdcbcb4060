"""Setting up, running and continuing a training."""
