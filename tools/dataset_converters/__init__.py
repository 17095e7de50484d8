"""Public data sets, and drawn pictures, in the form that the configs read."""
