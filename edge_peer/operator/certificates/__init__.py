"""The authority of a fleet and the certificates of all who speak in it."""
