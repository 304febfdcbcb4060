"""CLIPer: the early layers of CLIP read through the last one."""
