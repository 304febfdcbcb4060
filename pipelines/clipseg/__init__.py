"""Training and scoring of CLIPSeg, and asking it about one picture."""
