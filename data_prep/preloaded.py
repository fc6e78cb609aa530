"""The last module that the workers' fork server imports: the shared encoder is there when it is."""

from data_prep.preload import finish

finish()
