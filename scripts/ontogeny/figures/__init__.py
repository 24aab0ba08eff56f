"""Figures for papers. Each module draws one figure, from tables alone."""
