"""Whole trees into a store and out of it, copied, compared, estimated. Works through a mount."""
