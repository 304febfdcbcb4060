"""Configs of mmsegmentation by name; `clip-es train --config NAME` fills in the folders, each also runs by itself."""
