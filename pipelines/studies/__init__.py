"""The demo, the ladder, the oracle."""
