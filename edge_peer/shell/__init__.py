"""Everything of the daemon that touches the world: broker, disk, clock, worker thread, systemd."""
