"""Image builds: CodeBuild runs, and the Dockerfile built without Docker."""
