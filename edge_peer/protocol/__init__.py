"""The federation protocol as a sans-I/O state machine; imports the standard library only."""
