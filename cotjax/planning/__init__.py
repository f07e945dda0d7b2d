"""What a run needs of devices that are not there: memory, operations, traffic, time and cost."""
