"""What a user runs stands here; what it is made of, in the folders."""
