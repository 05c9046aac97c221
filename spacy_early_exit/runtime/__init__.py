"""The process rather than the method: threads, processors, forks, memory, torch's state."""
