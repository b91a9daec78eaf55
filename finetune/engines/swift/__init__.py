"""All that is known of ms-swift: its options, its command line, and what is put into its processes."""
