"""The daemon on every board: elects a controller over MQTT, trains, and goes on when boards die."""

__version__ = "0.1.0"
