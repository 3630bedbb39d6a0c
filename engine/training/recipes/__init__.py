"""What can be trained: one file a recipe. `engine.training.recipe` says what a recipe has to answer."""
