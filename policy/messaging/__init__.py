"""Messages as decisions of the language-model policy: their prompt, their grammar, their rewards, their training."""
