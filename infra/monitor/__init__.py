"""Monitor: looks at active training jobs on a schedule and publishes what alarms and dashboard need."""
