"""Activations: which rows are read, how they are harvested from a model, kept in shards and measured."""
