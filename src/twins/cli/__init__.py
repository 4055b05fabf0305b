"""The command line: `main` finds the verb, each verb is a module here, and `parse` reads its arguments."""
