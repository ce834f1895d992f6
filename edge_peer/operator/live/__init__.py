"""The federation as it is now: its documents read over MQTT, and single ones said."""
