"""dedupfs: a FUSE file system that keeps equal bytes of many writers once."""
