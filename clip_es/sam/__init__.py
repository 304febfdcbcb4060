"""SAM, SAM 2 and SAM 3 through transformers: masks from points and boxes, and from phrases."""
