"""How much of a model an engine keeps: the texts and questions, the figures, the record of them, and what may be asked
of it."""
