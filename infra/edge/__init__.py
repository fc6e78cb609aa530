"""What every Lambda function shares at its edge: environment, clients, log lines, and the one class of transient AWS faults."""
