"""The study as frozen typed models, one module per part, so that code depends only on the part that it uses."""
