"""The crosscoder: one dictionary over a list of sites, its losses and its training."""
