"""One fine-tuning run, from the words of a command line to run.json; the commands sft and finetune call it."""
