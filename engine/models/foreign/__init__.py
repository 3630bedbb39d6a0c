"""Reading other people's pickles without running them.

Two readers, one for each thing that only exists as a pickle: a dictionary of genes (Geneformer) and a PyTorch
checkpoint (Tahoe-x1's best-model.pt, CellWhisperer's, old pytorch_model.bin). Neither ever calls what a
pickle names: tensors and numpy scalars are rebuilt by code of this folder from their bytes, known trainer
classes become inert objects, and any other name is refused.
"""

from engine.models.foreign.checkpoint import Inert, open_checkpoint, open_tensors
from engine.models.foreign.dictionary import load_dictionary

__all__ = ["Inert", "load_dictionary", "open_checkpoint", "open_tensors"]
