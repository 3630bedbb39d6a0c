"""What is said of each cell: captions from columns of a store, from templates, or from a file."""

from engine.captions.source import Captions, CaptionSource
from engine.captions.templates import columns_of, is_template, render

__all__ = ["CaptionSource", "Captions", "columns_of", "is_template", "render"]
