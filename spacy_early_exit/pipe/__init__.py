"""spaCy's side: the pipeline component, whatever its task. Importing it does not import torch."""
