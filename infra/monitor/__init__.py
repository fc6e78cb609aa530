"""Monitor: publishes metrics of active training jobs on a schedule, for alarms and dashboard."""
