"""What computes the blocks of the vision tower before the one that is taken apart: torch, or ONNX Runtime."""
