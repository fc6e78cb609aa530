"""The container images of the jobs: Dockerfile, locks, and the build that CodeBuild runs (standard library only)."""
