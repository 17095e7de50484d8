"""What tools/reproduce.py is made of: the manifest, what is run for it, and the reports about it."""
