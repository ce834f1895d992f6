"""Boards that Ansible deploys to: what they install from, how they are, and what they have written."""
