"""What happened: tables, log store, readers, sessions, outcomes, catalog, simulated world."""
