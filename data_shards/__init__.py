"""Find a data set, divide it among peers, and describe the division."""
