"""Checking a store that nobody has mounted, repairing it, and making its index anew.

Extents, inodes and names are the truth; share counts, the chunk index and counters are made from
them. Rows are read in order into columns of a few bytes each, so that millions of files fit.
"""
