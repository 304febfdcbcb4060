"""From pictures and labels to a run of masks."""
