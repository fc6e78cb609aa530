"""What all sides agree on: settings, failures, file names, formats. Standard library only."""
