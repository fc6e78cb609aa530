"""One execution's input and what follows from it: RunSpec, recipes, S3 layout, job requests, the run's lock."""
