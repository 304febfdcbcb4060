"""What a segmenter learns from masks by."""
