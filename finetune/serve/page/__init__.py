"""The page at `/`: base and fine-tuned model asked side by side in a browser, only from files of this folder."""
