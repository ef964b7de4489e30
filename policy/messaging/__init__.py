"""Messages as decisions: the rules that none may break, the language model's words for them, a day planned for all."""
