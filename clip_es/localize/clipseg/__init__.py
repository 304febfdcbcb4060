"""CLIPSeg: a decoder on the frozen CLIP, asked with words or examples."""
