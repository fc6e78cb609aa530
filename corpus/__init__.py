"""From a source's text to a cleaned corpus, by datatrove: the job of the stage Prepare corpus."""
