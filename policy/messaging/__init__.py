"""Messages as decisions: the rules that none may break, and a day planned for everybody under a budget."""
