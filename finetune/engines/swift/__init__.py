"""Everything specific to ms-swift: its options, its command line, and the plugins in its processes."""
