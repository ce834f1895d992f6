"""Boards to test a fleet with: real systemd, SSH and a network of their own, on one Linux machine. See README.md."""
