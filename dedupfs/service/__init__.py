"""Composition root: builds the objects of a mount; owns nursery, clock, signals, logging, socket."""
