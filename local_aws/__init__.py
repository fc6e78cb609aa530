"""The embedded AWS: ministack with the services that it lacks, started by a launcher process."""
