"""Where examples come from: sources of records, prompts, token batches, Grain pipelines."""
