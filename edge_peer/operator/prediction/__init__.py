"""What a run's model says of pictures and arrays."""
