"""AWS services that ministack lacks, or has only in part."""
