"""Weights of others in the form that `init_cfg` reads."""
