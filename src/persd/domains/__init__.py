"""What a task is and how an answer is read: prompts, parsing and alignment, a module a domain."""
