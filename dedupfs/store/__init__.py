"""The dedup store: index, segments, ingest, share counts. Synchronous; knows no FUSE and no trio."""
