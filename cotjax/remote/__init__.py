"""Runs in a bucket: their folders here, what is fetched, what is uploaded, and who may write."""
