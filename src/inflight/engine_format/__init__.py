"""The contract between builder and runtime: manifest, file names, record layouts. It imports neither."""
