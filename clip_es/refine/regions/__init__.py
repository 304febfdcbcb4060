"""Class-agnostic regions of a picture, such as a mask generator's, and how they vote on its maps."""
