"""The rows of the family table, by the kind of their layers."""
