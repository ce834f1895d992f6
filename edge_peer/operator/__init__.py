"""What runs on the workstation: the demo, graphs, status."""
