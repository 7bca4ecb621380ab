"""Tool calls as the model families write them: a parser and a grammar for each form."""
