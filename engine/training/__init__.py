"""Training: one loop for every model, on Ray Train and DeepSpeed ZeRO; a recipe says what is trained."""
