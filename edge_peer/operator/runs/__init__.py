"""The folder of a run as values: what its CSVs and logs say, and what follows from them."""
