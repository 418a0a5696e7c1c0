"""The pyfuse3 adapter: requests in, vfs calls, replies and errnos out. No file-system semantics."""

# Before pyfuse3, whoever imports what first: see there.
from dedupfs.fuse import replies as replies
