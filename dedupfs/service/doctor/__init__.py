"""Looks at what a mount needs of a machine; finds, never changes."""
