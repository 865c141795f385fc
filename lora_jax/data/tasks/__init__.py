"""The tasks, one file each: where records come from, the prompt, the answer, the metric."""
