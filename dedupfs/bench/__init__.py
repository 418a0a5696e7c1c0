"""Measures the same jobs on several directories in turns; a mount is a directory like any other."""
