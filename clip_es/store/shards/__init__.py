"""The results of a run as shards: many pictures in one file, on a disk or on object storage."""
