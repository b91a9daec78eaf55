"""From an adapter to a standalone model folder: merged by ms-swift, completed, and proved to answer the same."""
