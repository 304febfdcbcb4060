"""CaGNet: features of classes that have no masks, made from their names, and a classifier trained on them."""
