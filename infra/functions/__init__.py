"""Lambda handlers, one module for each function: parse, call one function, serialise."""
