"""What learns from the masks."""
