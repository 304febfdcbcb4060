"""Which sentences suit a data set: sharpness of templates."""
