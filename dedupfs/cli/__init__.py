"""Commands and their output. Knows neither FUSE nor the store's insides."""
