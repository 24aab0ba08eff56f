"""Features in MongoDB: the only door to it, for the pipeline and for whoever reads."""
