"""spaCy's side: the pipeline component, whatever its task. Imports no torch when it is imported."""
