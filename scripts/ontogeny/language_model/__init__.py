"""Language models: train one, bring checkpoints in from elsewhere, hook and patch them."""
