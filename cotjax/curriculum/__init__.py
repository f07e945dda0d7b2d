"""The order of the data: difficulty, buckets, when the next bucket opens, rows and prompts."""
