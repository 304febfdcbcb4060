"""The dense CRF and its three engines."""
