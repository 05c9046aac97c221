"""Words per second, latency and memory."""
