"""Phantoms, importers of public data sets, and the experiments that redo the source studies."""
