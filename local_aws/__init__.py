"""The embedded AWS: launcher, job runner, corpus."""
