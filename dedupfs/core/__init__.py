"""Pure parts: types, errors, on-disk formats, chunking, interval arithmetic. No I/O, no clock."""
