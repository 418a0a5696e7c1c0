"""What the file system means: inodes, handles, names, unlinked-but-open files. No mount needed.

Everything runs on the event-loop thread. A method that is not `async` is one atomic section: other
requests see it whole or not at all. The only awaits are a cold read and a sync, both at the end of
their method's own work.
"""
