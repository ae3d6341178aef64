"""Whether a model folder is whole and works on this machine, as a report to be shared."""
