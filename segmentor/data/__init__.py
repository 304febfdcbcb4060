"""Pictures, masks and confidence on their way to the loss."""
