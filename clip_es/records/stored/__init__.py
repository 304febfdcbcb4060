"""Pictures on object storage, in tars and in Parquet: which there are, their labels, and how one is fetched."""
