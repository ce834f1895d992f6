"""A run as pictures: one page that opens without a network."""
