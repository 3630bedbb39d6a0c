"""Training a chat model about cells."""

from engine.training.recipes.chat.conversations import FILE, read_conversations
from engine.training.recipes.chat.plan import Sizes, make_embeddings, plan
from engine.training.recipes.chat.recipe import ChatRecipe

__all__ = ["FILE", "ChatRecipe", "Sizes", "make_embeddings", "plan", "read_conversations"]
