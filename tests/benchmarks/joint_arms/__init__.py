"""What `joint_quality` compares: the cells, the arms that are trained on them, and how all are measured."""
