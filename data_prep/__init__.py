"""From text to token shards: the tokenisation job."""
