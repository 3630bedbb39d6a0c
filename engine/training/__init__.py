"""Training: one loop for every model, on Ray Train and DeepSpeed ZeRO. A recipe says what is trained on what."""
