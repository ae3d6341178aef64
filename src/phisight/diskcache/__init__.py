"""A folder of checked files, bounded, for many processes."""
