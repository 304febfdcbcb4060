"""COCO: its own instances files, and the published lists of labels."""
