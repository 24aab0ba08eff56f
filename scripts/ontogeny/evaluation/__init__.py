"""How well a dictionary reconstructs, what it costs the language model, and what each of its features does."""
