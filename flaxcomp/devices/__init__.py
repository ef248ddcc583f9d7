"""Measuring TFLite files on devices: the pool, transports/ (one file each), the agent sent to a device, the protocol."""
