"""What can be made of encoded cells. Each product plans its members and turns encoder output into objects."""
