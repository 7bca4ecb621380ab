"""SGLang's own /generate."""
