"""One fine-tuning run, from the command-line arguments to run.json; called by the commands sft and finetune."""
