"""Several brokers as the sites of one federation."""
