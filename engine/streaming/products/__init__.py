"""What can be made of encoded cells. Each product plans its members and turns encoder output into their
objects.
"""

from engine.streaming.products.product import Collector, Member, Product, Source

__all__ = ["Collector", "Member", "Product", "Source"]
